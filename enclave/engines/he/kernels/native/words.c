/* Residues as packed bits, as accepted draws, and in another order. */
#include "ring.h"

static void pack_words(const word *x, word *out, size_t n, size_t bits) {
    const uint64_t mask = (1ull << bits) - 1;
    uint64_t pending = 0;
    size_t held = 0; /* bits of it, below 64 */
    for (size_t i = 0; i < n; i++) {
        const uint64_t v = x[i] & mask;
        pending |= v << held;
        held += bits;
        if (held >= 64) {
            *out++ = pending;
            held -= 64;
            pending = v >> (bits - held); /* bits <= 63: never by 64 */
        }
    }
    if (held) *out = pending;
}

/* pack(x, out, bits): [n] words below 2^bits -> packed, the lowest bits first; the rest of the last word is zero */
PyObject *py_pack(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 3) return PyErr_Format(PyExc_TypeError, "pack: expected three arguments");
    const size_t bits = PyLong_AsSize_t(args[2]);
    if (PyErr_Occurred()) return NULL;
    struct array b[2];
    if (take(args, 2, b, 2) < 0) return NULL;
    const int good = bits >= 1 && bits <= 63 && b[1].size == (b[0].size * bits + 63) / 64;
    if (good) {
        PyThreadState *state = unlock(b[0].size);
        pack_words(b[0].at, b[1].at, b[0].size, bits);
        lock(state);
    }
    release(b, 2);
    if (!good) return refuse("pack");
    Py_RETURN_NONE;
}

struct packed {
    const word *words;
    size_t size, bits; /* size: in words */
    uint64_t limit;
};

/* Values [first, n); whether one is not below the limit. */
static int unpack_words(const struct packed *s, word *out, size_t first, size_t n) {
    const uint64_t mask = (1ull << s->bits) - 1;
    uint64_t wrong = 0;
    for (size_t i = first; i < n; i++) {
        const size_t start = i * s->bits, at = start / 64, shift = start % 64;
        uint64_t v = s->words[at] >> shift;
        if (shift + s->bits > 64) v |= s->words[at + 1] << (64 - shift);
        out[i] = v & mask;
        wrong |= (uint64_t)(out[i] >= s->limit);
    }
    return wrong != 0;
}

#if RING_X86
/* Values from 0 on, of at most 57 bits, so that each lies within eight bytes, as long as those are there; how many. */
TARGET_AVX512 static size_t unpack_lanes(const struct packed *s, word *out, size_t n, int *wrong) {
    const __m512i mask = spread((1ull << s->bits) - 1), limit = spread(s->limit), seven = spread(7);
    const __m512i step = spread(8 * s->bits);
    __m512i start = _mm512_mullo_epi64(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), spread(s->bits));
    __mmask8 bad = 0;
    size_t i = 0;
    for (; i + 8 <= n && ((i + 7) * s->bits / 8) + 8 <= 8 * s->size; i += 8) {
        __m512i v = _mm512_i64gather_epi64(_mm512_srli_epi64(start, 3), s->words, 1);
        v = _mm512_and_si512(_mm512_srlv_epi64(v, _mm512_and_si512(start, seven)), mask);
        bad |= _mm512_cmp_epu64_mask(v, limit, _MM_CMPINT_NLT);
        store(out + i, v);
        start = _mm512_add_epi64(start, step);
    }
    *wrong |= bad != 0;
    return i;
}
#endif

/* unpack(words, out, bits, limit): the inverse; whether all are below `limit` and the rest of the last word is zero */
PyObject *py_unpack(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 4) return PyErr_Format(PyExc_TypeError, "unpack: expected four arguments");
    struct packed s = {.bits = PyLong_AsSize_t(args[2]), .limit = PyLong_AsUnsignedLongLong(args[3])};
    if (PyErr_Occurred()) return NULL;
    struct array b[2];
    if (take(args, 2, b, 2) < 0) return NULL;
    const size_t n = b[1].size;
    s.words = b[0].at, s.size = b[0].size;
    const int good = s.bits >= 1 && s.bits <= 63 && s.size == (n * s.bits + 63) / 64;
    int wrong = 0;
    if (good && n) {
        PyThreadState *state = unlock(n);
        size_t first = 0;
#if RING_X86
        if (ring_level >= LEVEL_AVX512 && s.bits <= 57) first = unpack_lanes(&s, b[1].at, n, &wrong);
#endif
        wrong |= unpack_words(&s, b[1].at, first, n);
        const size_t used = n * s.bits % 64;
        if (used) wrong |= s.words[s.size - 1] >> used != 0;
        lock(state);
    }
    release(b, 2);
    if (!good) return refuse("unpack");
    return PyBool_FromLong(!wrong);
}

/* accept(words, out, prime): the top bits of each word where they are below the prime; how many */
PyObject *py_accept(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 3) return PyErr_Format(PyExc_TypeError, "accept: expected three arguments");
    const uint64_t prime = PyLong_AsUnsignedLongLong(args[2]);
    if (PyErr_Occurred()) return NULL;
    if (prime < 2) return refuse("accept");
    struct array b[2];
    if (take(args, 2, b, 2) < 0) return NULL;
    const int shift = __builtin_clzll(prime);
    size_t done = 0;
    PyThreadState *state = unlock(b[0].size);
    for (size_t i = 0; i < b[0].size && done < b[1].size; i++) {
        const uint64_t v = b[0].at[i] >> shift;
        b[1].at[done] = v;
        done += v < prime;
    }
    lock(state);
    release(b, 2);
    return PyLong_FromSize_t(done);
}

/* automorphism(x, out, primes, degree, exponent): x(X^exponent), coefficient form */
PyObject *py_automorphism(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 5) return PyErr_Format(PyExc_TypeError, "automorphism: expected five arguments");
    const size_t degree = PyLong_AsSize_t(args[3]), exponent = PyLong_AsSize_t(args[4]);
    if (PyErr_Occurred() || !degree_fits(degree)) return NULL;
    struct array b[3];
    if (take(args, 3, b, 2) < 0) return NULL;
    const size_t k = b[2].size, rows = b[0].size / degree;
    const int good = k && exponent & 1 && b[0].size == rows * degree && rows % k == 0 && b[1].size == b[0].size;
    if (good) {
        PyThreadState *state = unlock(b[0].size);
        for (size_t r = 0; r < rows; r++) {
            const uint64_t p = b[2].at[r % k];
            const word *x = b[0].at + r * degree;
            word *out = b[1].at + r * degree;
            for (size_t i = 0, place = 0; i < degree; i++, place = (place + exponent) & (2 * degree - 1)) {
                const uint64_t v = x[i], negative = (p - v) & (0 - (uint64_t)(v != 0));
                out[place & (degree - 1)] = place >= degree ? negative : v;
            }
        }
        lock(state);
    }
    release(b, 3);
    if (!good) return refuse("automorphism");
    Py_RETURN_NONE;
}

INLINE size_t reversed(size_t x, unsigned bits) {
    uint32_t r = (uint32_t)x;
    r = (r >> 1 & 0x5555) | (r & 0x5555) << 1;
    r = (r >> 2 & 0x3333) | (r & 0x3333) << 2;
    r = (r >> 4 & 0x0f0f) | (r & 0x0f0f) << 4;
    r = (r >> 8 & 0x00ff) | (r & 0x00ff) << 8;
    return r >> (16 - bits);
}

/* automorphism_ntt(x, out, degree, exponent): the same in evaluation form; place i holds the value at psi^(2 rev(i) + 1)
 */
PyObject *py_automorphism_ntt(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 4) return PyErr_Format(PyExc_TypeError, "automorphism_ntt: expected four arguments");
    const size_t degree = PyLong_AsSize_t(args[2]), exponent = PyLong_AsSize_t(args[3]);
    if (PyErr_Occurred() || !degree_fits(degree)) return NULL;
    struct array b[2];
    if (take(args, 2, b, 2) < 0) return NULL;
    const size_t rows = b[0].size / degree;
    const int good = exponent & 1 && b[0].size == rows * degree && b[1].size == b[0].size;
    if (good) {
        PyThreadState *state = unlock(b[0].size);
        const unsigned bits = (unsigned)__builtin_ctzll(degree);
        enum { STRIP = 512 };
        for (size_t from = 0; from < degree; from += STRIP) {
            uint16_t source[STRIP];
            const size_t n = degree - from < STRIP ? degree - from : STRIP;
            for (size_t i = 0; i < n; i++) {
                const size_t power = (2 * reversed(from + i, bits) + 1) * exponent & (2 * degree - 1);
                source[i] = (uint16_t)reversed(power >> 1, bits);
            }
            for (size_t r = 0; r < rows; r++)
                for (size_t i = 0; i < n; i++) b[1].at[r * degree + from + i] = b[0].at[r * degree + source[i]];
        }
        lock(state);
    }
    release(b, 2);
    if (!good) return refuse("automorphism_ntt");
    Py_RETURN_NONE;
}
