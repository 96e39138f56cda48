/* Integers become residues, and rows of numbers become polynomials in evaluation form. */
#include "ring.h"

#include <math.h>
#include <stdlib.h>

#define LEAST_LANE_BITS 13 /* from here a float64 quotient of an int64 is off by less than one */
#define GROUP 8            /* columns that are read together: a line of the cache */
#define LIMIT 4611686018427387904.0 /* 2^62 */

/* ---- int64 -> residues */

INLINE uint64_t reduce_signed(int64_t v, const struct modulus *m) {
    const uint64_t r = reduce_word((uint64_t)v, m), wrapped = m->top & (0 - ((uint64_t)v >> 63));
    return below(r + m->p - wrapped, m->p);
}

static void reduce_signed_words(const signed_word *v, word *out, size_t n, uint64_t p) {
    const struct modulus m = make_modulus(p);
    for (size_t i = 0; i < n; i++) out[i] = reduce_signed(v[i], &m);
}

#if RING_X86
TARGET_AVX512 static void reduce_signed_lanes(const signed_word *v, word *out, size_t n, uint64_t p) {
    const __m512d inverse = _mm512_set1_pd(1.0 / (double)p);
    const __m512i prime = spread(p), zero = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 8) {
        const __m512i x = _mm512_loadu_si512(v + i);
        const __m512i q = _mm512_cvtpd_epi64(_mm512_mul_pd(_mm512_cvtepi64_pd(x), inverse));
        __m512i r = _mm512_sub_epi64(x, _mm512_madd52lo_epu64(zero, q, prime)); /* right modulo 2^52, and |r| < p */
        r = _mm512_srai_epi64(_mm512_slli_epi64(r, 12), 12);
        store(out + i, _mm512_min_epu64(r, _mm512_add_epi64(r, prime)));
    }
}
#endif

void reduce_signed_row(const signed_word *v, word *out, size_t n, uint64_t p) {
#if RING_X86
    if (fast_prime(p, n) && p >> LEAST_LANE_BITS) {
        reduce_signed_lanes(v, out, n, p);
        return;
    }
#endif
    reduce_signed_words(v, out, n, p);
}

/* reduce_signed(v, out, primes, degree): [n, N] -> [n, k, N] */
PyObject *py_reduce_signed(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 4) return PyErr_Format(PyExc_TypeError, "reduce_signed: expected four arguments");
    const size_t degree = PyLong_AsSize_t(args[3]);
    if (!degree_fits(degree)) return NULL;
    struct array b[3];
    if (take(args, 3, b, 2) < 0) return NULL;
    const size_t k = b[2].size, n = b[0].size / degree;
    const int good = b[0].size == n * degree && b[1].size == n * k * degree;
    if (good) {
        PyThreadState *state = unlock(b[1].size);
        for (size_t r = 0; r < n; r++)
            for (size_t i = 0; i < k; i++)
                reduce_signed_row((const signed_word *)(b[0].at + r * degree), b[1].at + (r * k + i) * degree, degree,
                                  b[2].at[i]);
        lock(state);
    }
    release(b, 3);
    if (!good) return refuse("reduce_signed");
    Py_RETURN_NONE;
}

/* ---- long integers -> residues */

struct long_integers {
    const word *words; /* [limbs, n], the lowest first */
    size_t limbs, n, bits;
};

static void reduce_long_words(const struct long_integers *v, word *out, uint64_t p, uint64_t half) {
    const uint64_t mask = v->bits % 64 ? (1ull << v->bits % 64) - 1 : ~0ull;
    const struct modulus m = make_modulus(p);
    for (size_t n = 0; n < v->n; n++) {
        uint64_t r = reduce_word(v->words[(v->limbs - 1) * v->n + n] & mask, &m);
        for (size_t l = v->limbs - 1; l-- > 0;) r = reduce_wide((wide)r << 64 | v->words[l * v->n + n], &m);
        out[n] = below(r + m.p - half, m.p);
    }
}

#if RING_X86
/* By digits of 52 bits, the highest first. */
TARGET_AVX512 static void reduce_long_lanes(const struct long_integers *v, word *out, uint64_t p, uint64_t half) {
    const struct lanes m = make_lanes(p);
    const __m512i minus = spread(p - half);
    for (size_t n = 0; n < v->n; n += 8) {
        __m512i r = _mm512_setzero_si512();
        for (size_t digit = (v->bits + 51) / 52; digit-- > 0;) {
            const size_t first = 52 * digit, limb = first / 64, shift = first % 64, left = v->bits - first;
            __m512i d = _mm512_srl_epi64(load(v->words + limb * v->n + n), _mm_cvtsi64_si128((long long)shift));
            if (shift > 12 && limb + 1 < v->limbs) {
                const __m512i next = load(v->words + (limb + 1) * v->n + n);
                d = _mm512_or_si512(d, _mm512_sll_epi64(next, _mm_cvtsi64_si128((long long)(64 - shift))));
            }
            d = _mm512_and_si512(d, spread((1ull << (left < 52 ? left : 52)) - 1));
            r = _mm512_add_epi64(lanes_times(r, m.top, m.top_ratio, &m), lanes_reduce(d, &m)); /* below 4 p */
        }
        r = lanes_below(lanes_below(r, m.twice), m.p);
        store(out + n, lanes_below(_mm512_add_epi64(r, minus), m.p));
    }
}
#endif

/* reduce_words(words, out, primes, degree, bits): [limbs, N], the lowest first, cut to `bits`, minus 2^(bits - 1), ->
 * [k, N] */
PyObject *py_reduce_words(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 5) return PyErr_Format(PyExc_TypeError, "reduce_words: expected five arguments");
    const size_t degree = PyLong_AsSize_t(args[3]), bits = PyLong_AsSize_t(args[4]);
    if (PyErr_Occurred() || !degree_fits(degree)) return NULL;
    struct array b[3];
    if (take(args, 3, b, 2) < 0) return NULL;
    const size_t k = b[2].size;
    const struct long_integers v = {b[0].at, b[0].size / degree, degree, bits};
    const int good = bits && v.limbs == (bits + 63) / 64 && b[0].size == v.limbs * degree && b[1].size == k * degree;
    if (good) {
        PyThreadState *state = unlock(b[1].size);
        for (size_t i = 0; i < k; i++) {
            const uint64_t p = b[2].at[i];
            uint64_t half = 1;
            for (size_t s = 1; s < bits; s++) half = below(2 * half, p);
#if RING_X86
            if (fast_prime(p, degree)) {
                reduce_long_lanes(&v, b[1].at + i * degree, p, half);
                continue;
            }
#endif
            reduce_long_words(&v, b[1].at + i * degree, p, half);
        }
        lock(state);
    }
    release(b, 3);
    if (!good) return refuse("reduce_words");
    Py_RETURN_NONE;
}

/* ---- rows */

struct rows {
    const char *at;
    size_t n, columns, step; /* of a row, in bytes */
    int real;                /* float64, else int64 */
    double factor;
};

/* Columns [first, first + width) as integers, [GROUP, degree], zeros below the last row; whether all were in range. */
static int take_columns_words(const struct rows *rows, size_t first, size_t width, signed_word *out, size_t degree) {
    int good = 1;
    for (size_t r = 0; r < rows->n; r++) {
        const char *at = rows->at + r * rows->step + 8 * first;
        for (size_t c = 0; c < width; c++) {
            int64_t v;
            memcpy(&v, at + 8 * c, 8);
            if (rows->real) {
                double x;
                memcpy(&x, at + 8 * c, 8);
                x = rint(x * rows->factor); /* to even: the mode is never changed */
                const int fits = x < LIMIT && x > -LIMIT;
                good &= fits;
                v = fits ? (int64_t)x : 0;
            }
            out[c * degree + r] = v;
        }
    }
    return good;
}

#if RING_X86
TARGET_AVX512 static int take_columns_lanes(const struct rows *rows, size_t first, size_t width, signed_word *out,
                                            size_t degree) {
    const __mmask8 columns = (__mmask8)((1u << width) - 1);
    const __m512d factor = _mm512_set1_pd(rows->factor), limit = _mm512_set1_pd(LIMIT);
    __mmask8 bad = 0;
    const size_t whole = rows->n / 8 * 8;
    for (size_t r = 0; r < whole; r += 8) {
        __m512i t[8];
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++) {
            const char *at = rows->at + (r + i) * rows->step + 8 * first;
            t[i] = _mm512_maskz_loadu_epi64(columns, at);
            if (rows->real) {
                const __m512d x = _mm512_mul_pd(_mm512_castsi512_pd(t[i]), factor);
                bad |= _mm512_cmp_pd_mask(_mm512_abs_pd(x), limit, _CMP_NLT_UQ);
                t[i] = _mm512_cvtpd_epi64(x);
            }
        }
        transpose(t);
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++)
            if (i < width) _mm512_storeu_si512(out + i * degree + r, t[i]);
    }
    struct rows rest = *rows;
    rest.at += whole * rows->step;
    rest.n -= whole;
    return take_columns_words(&rest, first, width, out + whole, degree) && !bad;
}
#endif

static int take_columns(const struct rows *rows, size_t first, size_t width, signed_word *out, size_t degree) {
    for (size_t c = 0; c < width; c++) memset(out + c * degree + rows->n, 0, 8 * (degree - rows->n));
#if RING_X86
    if (ring_level >= LEVEL_AVX512) return take_columns_lanes(rows, first, width, out, degree);
#endif
    return take_columns_words(rows, first, width, out, degree);
}

/* encode_rows(rows, out, primes, roots, ratios, lanes, degree, real, factor): [n, d] -> [d, k, N] in evaluation form;
 * whether all values were in range */
PyObject *py_encode_rows(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 9) return PyErr_Format(PyExc_TypeError, "encode_rows: expected nine arguments");
    const size_t degree = PyLong_AsSize_t(args[6]);
    struct rows rows = {.real = PyObject_IsTrue(args[7]), .factor = PyFloat_AsDouble(args[8])};
    if (PyErr_Occurred() || !degree_fits(degree)) return NULL;
    Py_buffer matrix;
    if (PyObject_GetBuffer(args[0], &matrix, PyBUF_STRIDES) < 0) return NULL;
    struct array b[5];
    if (take(args + 1, 5, b, 1) < 0) {
        PyBuffer_Release(&matrix);
        return NULL;
    }
    const size_t k = b[1].size;
    int good = matrix.ndim == 2 && matrix.itemsize == 8 && (matrix.shape[1] < 2 || matrix.strides[1] == 8) &&
               (size_t)matrix.shape[0] <= degree && b[0].size == (size_t)matrix.shape[1] * k * degree &&
               b[2].size == k * degree && b[3].size == k * degree && b[4].size == 2 * k * degree;
    int fits = 1;
    signed_word *integers = good ? malloc(GROUP * degree * 8) : NULL;
    if (good && integers != NULL) {
        rows.at = matrix.buf, rows.n = (size_t)matrix.shape[0], rows.columns = (size_t)matrix.shape[1];
        rows.step = (size_t)matrix.strides[0]; /* a negative step wraps around as it should */
        PyThreadState *state = unlock(b[0].size);
        for (size_t first = 0; first < rows.columns; first += GROUP) {
            const size_t left = rows.columns - first, width = left < GROUP ? left : GROUP;
            fits &= take_columns(&rows, first, width, integers, degree);
            for (size_t c = 0; c < width; c++)
                for (size_t i = 0; i < k; i++) {
                    const struct transform t = {
                        .degree = degree, .p = b[1].at[i], .roots = b[2].at + i * degree,
                        .ratios = b[3].at + i * degree, .lane_roots = b[4].at + 2 * i * degree,
                        .lane_ratios = b[4].at + (2 * i + 1) * degree};
                    word *out = b[0].at + ((first + c) * k + i) * degree;
                    reduce_signed_row(integers + c * degree, out, degree, t.p);
                    forward(&t, out, out);
                }
        }
        lock(state);
    }
    const int memory = !good || integers != NULL;
    free(integers);
    release(b, 5);
    PyBuffer_Release(&matrix);
    if (!good) return refuse("encode_rows");
    if (!memory) return PyErr_NoMemory();
    return PyBool_FromLong(fits);
}
