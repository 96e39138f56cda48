/* Row blocks times ciphertexts: out[b, c, k] = sum_j xs[b, j, k] ys[j, c, k] modulo each prime.
 *
 * Products of 50-bit residues are summed as they are, the low 52 bits apart from the high ones, and reduced once. The
 * coefficients are cut into strips such that the strip of all ys stays in the second cache while the blocks stream by.
 */
#include "ring.h"

#include <stdlib.h>

struct dot {
    const word *xs, *ys, *primes;
    word *out;
    size_t blocks, terms, width, k, degree; /* width: ciphertexts' polynomials, c */
};

#define CACHE_WORDS (1u << 16) /* half a megabyte of ys */
#define LONGEST_STRIP 512
#define SHORTEST_STRIP 64
#define LAZY_TERMS 2048     /* 2^11 sums of 52 bits stay below 2^63 */
#define LAZY_WIDE_TERMS 32  /* 2^5 products below 2^122 */

static size_t strip_length(const struct dot *d) {
    size_t strip = LONGEST_STRIP;
    while (strip > SHORTEST_STRIP && strip * d->terms * d->width > CACHE_WORDS) strip /= 2;
    return strip < d->degree ? strip : d->degree;
}

INLINE const word *x_at(const struct dot *d, size_t b, size_t j, size_t i, size_t from) {
    return d->xs + ((b * d->terms + j) * d->k + i) * d->degree + from;
}

INLINE const word *y_at(const struct dot *d, size_t j, size_t c, size_t i, size_t from) {
    return d->ys + ((j * d->width + c) * d->k + i) * d->degree + from;
}

INLINE word *out_at(const struct dot *d, size_t b, size_t c, size_t i, size_t from) {
    return d->out + ((b * d->width + c) * d->k + i) * d->degree + from;
}

/* ---- any prime */

INLINE void dot_words(const struct dot *d, size_t i) {
    const struct modulus m = make_modulus(d->primes[i]);
    const size_t strip = d->degree < SHORTEST_STRIP ? d->degree : SHORTEST_STRIP;
    for (size_t from = 0; from < d->degree; from += strip)
        for (size_t b = 0; b < d->blocks; b++)
            for (size_t c = 0; c < d->width; c++) {
                wide sums[SHORTEST_STRIP];
                memset(sums, 0, sizeof sums);
                for (size_t j = 0; j < d->terms; j++) {
                    const word *x = x_at(d, b, j, i, from), *y = y_at(d, j, c, i, from);
                    for (size_t n = 0; n < strip; n++) sums[n] += (wide)x[n] * y[n];
                    if (j % LAZY_WIDE_TERMS == LAZY_WIDE_TERMS - 1)
                        for (size_t n = 0; n < strip; n++) sums[n] = reduce_wide(sums[n], &m);
                }
                word *out = out_at(d, b, c, i, from);
                for (size_t n = 0; n < strip; n++) out[n] = reduce_wide(sums[n], &m);
            }
}

#if RING_X86
TARGET_AVX2 static void dot_avx2(const struct dot *d, size_t i) { dot_words(d, i); }
#endif
static void dot_c(const struct dot *d, size_t i) { dot_words(d, i); }

/* ---- primes below 2^50 */

#if RING_X86
/* sums[2 c] and sums[2 c + 1]: low and high halves for two polynomials, `rows` terms at once */
TARGET_AVX512 INLINE void gather_pair(const struct dot *d, size_t b, size_t j, size_t i, size_t from, size_t strip,
                                      word (*sums)[LONGEST_STRIP], size_t c, const int rows) {
    const size_t x_step = d->k * d->degree, y_step = d->width * x_step;
    const word *x = x_at(d, b, j, i, from), *y0 = y_at(d, j, c, i, from), *y1 = y_at(d, j, c + 1, i, from);
    for (size_t n = 0; n < strip; n += 8) {
        __m512i low0 = load(sums[0] + n), high0 = load(sums[1] + n), low1 = load(sums[2] + n), high1 = load(sums[3] + n);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const __m512i a = load(x + (size_t)r * x_step + n);
            const __m512i u = load(y0 + (size_t)r * y_step + n), v = load(y1 + (size_t)r * y_step + n);
            low0 = _mm512_madd52lo_epu64(low0, a, u);
            high0 = _mm512_madd52hi_epu64(high0, a, u);
            low1 = _mm512_madd52lo_epu64(low1, a, v);
            high1 = _mm512_madd52hi_epu64(high1, a, v);
        }
        store(sums[0] + n, low0), store(sums[1] + n, high0), store(sums[2] + n, low1), store(sums[3] + n, high1);
    }
}

TARGET_AVX512 INLINE void gather_one(const struct dot *d, size_t b, size_t j, size_t i, size_t from, size_t strip,
                                     word (*sums)[LONGEST_STRIP], size_t c) {
    const word *x = x_at(d, b, j, i, from), *y = y_at(d, j, c, i, from);
    for (size_t n = 0; n < strip; n += 8) {
        const __m512i a = load(x + n), u = load(y + n);
        store(sums[0] + n, _mm512_madd52lo_epu64(load(sums[0] + n), a, u));
        store(sums[1] + n, _mm512_madd52hi_epu64(load(sums[1] + n), a, u));
    }
}

TARGET_AVX512 INLINE void settle(word (*sums)[LONGEST_STRIP], size_t strip, word *out, const struct lanes *m) {
    for (size_t n = 0; n < strip; n += 8) store(out + n, lanes_reduce_sum(load(sums[0] + n), load(sums[1] + n), m));
}

/* The sums so far become residues, with nothing in the high halves. */
TARGET_AVX512 static void fold(word (*sums)[LONGEST_STRIP], int halves, size_t strip, const struct lanes *m) {
    for (int h = 0; h < halves; h += 2) {
        settle(sums + h, strip, sums[h], m);
        memset(sums[h + 1], 0, 8 * strip);
    }
}

TARGET_AVX512 static void dot_strip(const struct dot *d, const struct lanes *m, size_t b, size_t i, size_t from,
                                    size_t strip) {
    word sums[4][LONGEST_STRIP] __attribute__((aligned(64)));
    for (size_t c = 0; c < d->width; c += 2) {
        const int pair = c + 1 < d->width;
        memset(sums, 0, sizeof sums);
        for (size_t j = 0, since = 0; j < d->terms;) {
            const size_t left = d->terms - j, step = pair && left >= 6 ? 6 : pair && left >= 3 ? 3 : 1;
            if (since + step > LAZY_TERMS - 1) { /* what is folded counts as a term */
                fold(sums, pair ? 4 : 2, strip, m);
                since = 0;
            }
            if (!pair)
                gather_one(d, b, j, i, from, strip, sums, c);
            else if (step == 6)
                gather_pair(d, b, j, i, from, strip, sums, c, 6);
            else if (step == 3)
                gather_pair(d, b, j, i, from, strip, sums, c, 3);
            else
                gather_pair(d, b, j, i, from, strip, sums, c, 1);
            j += step, since += step;
        }
        settle(sums, strip, out_at(d, b, c, i, from), m);
        if (pair) settle(sums + 2, strip, out_at(d, b, c + 1, i, from), m);
    }
}

TARGET_AVX512 static void dot_lanes(const struct dot *d, size_t i) {
    const struct lanes m = make_lanes(d->primes[i]);
    const size_t strip = strip_length(d);
    for (size_t from = 0; from < d->degree; from += strip)
        for (size_t b = 0; b < d->blocks; b++) dot_strip(d, &m, b, i, from, strip);
}
#endif

/* dot(xs, ys, out, primes, blocks, degree): out overlaps nothing */
PyObject *py_dot(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 6) return PyErr_Format(PyExc_TypeError, "dot: expected six arguments");
    struct dot d = {.blocks = PyLong_AsSize_t(args[4]), .degree = PyLong_AsSize_t(args[5])};
    if (PyErr_Occurred() || !degree_fits(d.degree)) return NULL;
    struct array b[4];
    if (take(args, 4, b, 4) < 0) return NULL;
    d.xs = b[0].at, d.ys = b[1].at, d.out = b[2].at, d.primes = b[3].at, d.k = b[3].size;
    const size_t unit = d.k * d.degree;
    int good = unit && d.blocks && b[0].size % (unit * d.blocks) == 0 && b[2].size % (unit * d.blocks) == 0;
    if (good) {
        d.terms = b[0].size / (unit * d.blocks), d.width = b[2].size / (unit * d.blocks);
        good = d.terms && d.width && b[1].size == d.terms * d.width * unit;
    }
    if (good) {
        PyThreadState *state = unlock(b[0].size);
        for (size_t i = 0; i < d.k; i++) {
#if RING_X86
            if (fast_prime(d.primes[i], d.degree))
                dot_lanes(&d, i);
            else if (ring_level >= LEVEL_AVX2)
                dot_avx2(&d, i);
            else
#endif
                dot_c(&d, i);
        }
        lock(state);
    }
    release(b, 4);
    if (!good) return refuse("dot");
    Py_RETURN_NONE;
}
