/* From one modulus to another: fewer primes, or the reals modulo 1 (the torus) cut to some bits. */
#include "ring.h"

/* ---- round(x / p_last) modulo the others */

struct division {
    uint64_t p, last, half, inverse, inverse_ratio; /* half: (last - 1) / 2 modulo p; inverse: of last */
};

INLINE void divide_words(const struct division *d, const word *x, const word *last, word *out, size_t n) {
    const struct modulus m = make_modulus(d->p);
    for (size_t i = 0; i < n; i++) {
        const uint64_t shifted = reduce_word(below(last[i] + d->last / 2, d->last), &m);
        const uint64_t difference = below(x[i] + d->half, d->p) + d->p - shifted;
        out[i] = times(difference, d->inverse, d->inverse_ratio, d->p);
    }
}

#if RING_X86
TARGET_AVX2 static void divide_avx2(const struct division *d, const word *x, const word *last, word *out, size_t n) {
    divide_words(d, x, last, out, n);
}

TARGET_AVX512 static void divide_lanes(const struct division *d, const word *x, const word *last, word *out, size_t n) {
    const struct lanes m = make_lanes(d->p);
    const __m512i prime = spread(d->last), middle = spread(d->last / 2), half = spread(d->half);
    const __m512i inverse = spread(d->inverse), ratio = spread(d->inverse_ratio >> 12);
    for (size_t i = 0; i < n; i += 8) {
        const __m512i shifted = lanes_reduce(lanes_below(_mm512_add_epi64(load(last + i), middle), prime), &m);
        const __m512i sum = _mm512_add_epi64(_mm512_add_epi64(load(x + i), half), m.twice);
        const __m512i r = lanes_times(_mm512_sub_epi64(sum, shifted), inverse, ratio, &m); /* of less than 4 p */
        store(out + i, lanes_below(r, m.p));
    }
}
#endif

static void divide_c(const struct division *d, const word *x, const word *last, word *out, size_t n) {
    divide_words(d, x, last, out, n);
}

static void divide(const struct division *d, const word *x, const word *last, word *out, size_t n) {
#if RING_X86
    if (fast_prime(d->p, n) && fast_prime(d->last, n)) {
        divide_lanes(d, x, last, out, n);
        return;
    }
    if (ring_level >= LEVEL_AVX2) {
        divide_avx2(d, x, last, out, n);
        return;
    }
#endif
    divide_c(d, x, last, out, n);
}

/* drop_last(x, out, primes, inverses, degree): [n, k, N] -> [n, k - 1, N] */
PyObject *py_drop_last(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 5) return PyErr_Format(PyExc_TypeError, "drop_last: expected five arguments");
    const size_t degree = PyLong_AsSize_t(args[4]);
    if (!degree_fits(degree)) return NULL;
    struct array b[4];
    if (take(args, 4, b, 2) < 0) return NULL;
    const size_t k = b[2].size, n = k ? b[0].size / (k * degree) : 0;
    const int good = k > 1 && b[0].size == n * k * degree && b[1].size == n * (k - 1) * degree && b[3].size == k - 1;
    if (good) {
        const uint64_t last = b[2].at[k - 1];
        PyThreadState *state = unlock(b[0].size);
        for (size_t i = 0; i < k - 1; i++) {
            const uint64_t p = b[2].at[i], inverse = b[3].at[i];
            const struct division d = {p, last, last / 2 % p, inverse, quotient(inverse, p)};
            for (size_t r = 0; r < n; r++)
                divide(&d, b[0].at + (r * k + i) * degree, b[0].at + (r * k + k - 1) * degree,
                       b[1].at + (r * (k - 1) + i) * degree, degree);
        }
        lock(state);
    }
    release(b, 4);
    if (!good) return refuse("drop_last");
    Py_RETURN_NONE;
}

/* ---- to the torus: the top bits of sum_i (x_i w_i mod p_i) f_i + 2^(127 - bits) modulo 2^128 */

#define STRIP 64 /* coefficients, at most */

struct torus {
    const word *primes, *weights, *ratios, *fractions; /* [k] and, two words each, [k, 2] */
    size_t k, degree, bits;
};

static void to_torus_words(const struct torus *t, const word *x, word *out, size_t n) {
    wide sums[STRIP];
    for (size_t s = 0; s < n; s++) sums[s] = (wide)1 << (127 - t->bits);
    for (size_t i = 0; i < t->k; i++) {
        const uint64_t p = t->primes[i], w = t->weights[i], ratio = t->ratios[i];
        const wide fraction = (wide)t->fractions[2 * i + 1] << 64 | t->fractions[2 * i];
        for (size_t s = 0; s < n; s++) sums[s] += times(x[i * t->degree + s], w, ratio, p) * fraction;
    }
    for (size_t s = 0; s < n; s++) out[s] = (uint64_t)(sums[s] >> 64) >> (64 - t->bits);
}

#if RING_X86
/* The sum in digits of 52 bits, carried at the end; what is above 2^128 falls off the last one. */
TARGET_AVX512 static void to_torus_lanes(const struct torus *t, const word *x, word *out, size_t n) {
    const uint64_t mask = (1ull << 52) - 1;
    const wide half = (wide)1 << (127 - t->bits);
    for (size_t s = 0; s < n; s += 8) {
        __m512i d0 = spread((uint64_t)half & mask), d1 = spread((uint64_t)(half >> 52) & mask);
        __m512i d2 = spread((uint64_t)(half >> 104));
        for (size_t i = 0; i < t->k; i++) {
            const struct lanes m = make_lanes(t->primes[i]);
            const wide fraction = (wide)t->fractions[2 * i + 1] << 64 | t->fractions[2 * i];
            const __m512i f0 = spread((uint64_t)fraction & mask), f1 = spread((uint64_t)(fraction >> 52) & mask);
            const __m512i f2 = spread((uint64_t)(fraction >> 104)), w = spread(t->weights[i]);
            const __m512i r = lanes_times(load(x + i * t->degree + s), w, spread(t->ratios[i] >> 12), &m);
            const __m512i y = lanes_below(r, m.p);
            d0 = _mm512_madd52lo_epu64(d0, y, f0);
            d1 = _mm512_madd52hi_epu64(_mm512_madd52lo_epu64(d1, y, f1), y, f0);
            d2 = _mm512_madd52hi_epu64(_mm512_madd52lo_epu64(d2, y, f2), y, f1);
        }
        d1 = _mm512_add_epi64(d1, _mm512_srli_epi64(d0, 52));
        d2 = _mm512_add_epi64(d2, _mm512_srli_epi64(d1, 52));
        const __m512i low = _mm512_srli_epi64(_mm512_and_si512(d1, spread(mask)), 12);
        const __m512i top = _mm512_or_si512(_mm512_slli_epi64(d2, 40), low);
        store(out + s, _mm512_srl_epi64(top, _mm_cvtsi64_si128((long long)(64 - t->bits))));
    }
}
#endif

/* to_torus(x, out, primes, weights, ratios, fractions, degree, bits): [n, k, N] -> [n, N] */
PyObject *py_to_torus(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 8) return PyErr_Format(PyExc_TypeError, "to_torus: expected eight arguments");
    struct torus t = {.degree = PyLong_AsSize_t(args[6]), .bits = PyLong_AsSize_t(args[7])};
    if (PyErr_Occurred() || !degree_fits(t.degree)) return NULL;
    struct array b[6];
    if (take(args, 6, b, 2) < 0) return NULL;
    t.k = b[2].size, t.primes = b[2].at, t.weights = b[3].at, t.ratios = b[4].at, t.fractions = b[5].at;
    const size_t n = t.k ? b[0].size / (t.k * t.degree) : 0;
    const int good = t.k && t.bits >= 1 && t.bits <= 64 && b[0].size == n * t.k * t.degree &&
                     b[1].size == n * t.degree && b[3].size == t.k && b[4].size == t.k && b[5].size == 2 * t.k;
    if (good) {
        PyThreadState *state = unlock(b[0].size);
        int fast = 1;
        for (size_t i = 0; i < t.k; i++) fast &= fast_prime(t.primes[i], t.degree);
        const size_t strip = t.degree < STRIP ? t.degree : STRIP;
        for (size_t r = 0; r < n; r++)
            for (size_t from = 0; from < t.degree; from += strip) {
                const word *x = b[0].at + r * t.k * t.degree + from;
                word *out = b[1].at + r * t.degree + from;
#if RING_X86
                if (fast) {
                    to_torus_lanes(&t, x, out, strip);
                    continue;
                }
#endif
                to_torus_words(&t, x, out, strip);
            }
        lock(state);
    }
    release(b, 6);
    if (!good) return refuse("to_torus");
    Py_RETURN_NONE;
}

/* ---- from the torus */

#if RING_X86
TARGET_AVX512 static void scale_lanes(word *x, size_t n, uint64_t w, uint64_t p) {
    const struct lanes m = make_lanes(p);
    const __m512i factor = spread(w), ratio = spread(quotient(w, p) >> 12);
    for (size_t i = 0; i < n; i += 8) store(x + i, lanes_below(lanes_times(load(x + i), factor, ratio, &m), m.p));
}
#endif

/* x w modulo p for a known factor, in place */
static void scale_row(word *x, size_t n, uint64_t w, uint64_t p) {
#if RING_X86
    if (fast_prime(p, n)) {
        scale_lanes(x, n, w, p);
        return;
    }
#endif
    const uint64_t ratio = quotient(w, p);
    for (size_t i = 0; i < n; i++) x[i] = times(x[i], w, ratio, p);
}

/* from_torus(m, out, primes, factors, degree, modulus, bits): [n, N] -> [n, k, N], (q m centred modulo 2^bits) times
 * the factor; modulus: q modulo 2^64 */
PyObject *py_from_torus(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 7) return PyErr_Format(PyExc_TypeError, "from_torus: expected seven arguments");
    const size_t degree = PyLong_AsSize_t(args[4]), bits = PyLong_AsSize_t(args[6]);
    const uint64_t q = PyLong_AsUnsignedLongLong(args[5]);
    if (PyErr_Occurred() || !degree_fits(degree)) return NULL;
    struct array b[4];
    if (take(args, 4, b, 2) < 0) return NULL;
    const size_t k = b[2].size, n = b[0].size / degree;
    const int good = k && bits >= 1 && bits <= 64 && b[0].size == n * degree && b[1].size == n * k * degree &&
                     b[3].size == k;
    if (good) {
        PyThreadState *state = unlock(b[1].size);
        const size_t strip = degree < STRIP ? degree : STRIP;
        for (size_t r = 0; r < n; r++)
            for (size_t from = 0; from < degree; from += strip) {
                int64_t centred[STRIP];
                for (size_t s = 0; s < strip; s++)
                    centred[s] = (int64_t)(b[0].at[r * degree + from + s] * q << (64 - bits)) >> (64 - bits);
                for (size_t i = 0; i < k; i++) {
                    word *out = b[1].at + (r * k + i) * degree + from;
                    reduce_signed_row((const signed_word *)centred, out, strip, b[2].at[i]);
                    scale_row(out, strip, b[3].at[i], b[2].at[i]);
                }
            }
        lock(state);
    }
    release(b, 4);
    if (!good) return refuse("from_torus");
    Py_RETURN_NONE;
}
