/* Row blocks times ciphertexts: out[b, c, k] = sum_j xs[b, j, k] ys[j, c, k] modulo each prime.
 *
 * Products of 50-bit residues are summed as they are, the low 52 bits apart from the high ones, and reduced once. The
 * coefficients are cut into strips and the terms into chunks, such that the ys of both stay in the second cache while
 * the blocks stream by; they are copied there in the order of use, since their own steps are powers of two.
 */
#include "ring.h"

#include <stdlib.h>

struct dot {
    const word *xs, *ys, *primes;
    word *out;
    size_t blocks, terms, width, k, degree; /* width: ciphertexts' polynomials, c */
};

#define STRIP 512           /* coefficients, at most: a page of each x */
#define CHUNK 64            /* terms whose ys, 512 KiB, stay in the second cache */
#define GROUP 8             /* terms in one pass over the sums */
#define BATCH 16            /* blocks whose sums, 16 KiB each, are kept at once */
#define LAZY_TERMS 2048     /* 2^11 sums of 52 bits stay below 2^63 */
#define WIDE_STRIP 64
#define LAZY_WIDE_TERMS 32  /* 2^5 products below 2^122 */

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
    const size_t strip = d->degree < WIDE_STRIP ? d->degree : WIDE_STRIP;
    for (size_t from = 0; from < d->degree; from += strip)
        for (size_t b = 0; b < d->blocks; b++)
            for (size_t c = 0; c < d->width; c++) {
                wide sums[WIDE_STRIP];
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
/* Two polynomials' sums at eight coefficients. */
struct sums {
    word low0[8], high0[8], low1[8], high1[8];
};

/* The scratch of one call: ys of two polynomials in the order in which `add_group` reads them, and the sums. */
struct scratch {
    word ys[CHUNK / GROUP][STRIP / 8][GROUP][2][8];
    struct sums sums[BATCH][STRIP / 8];
};

/* Where a strip begins: prime i, coefficients [from, from + vectors * 8), polynomials c and c + 1 if that exists. */
struct strip {
    size_t i, from, vectors, c, second;
};

/* ys of the terms from `first` on; zeros after the last term. */
TARGET_AVX512 static void pack_ys(const struct dot *d, const struct strip *s, size_t first, size_t terms,
                                  struct scratch *scratch) {
    const size_t padded = (terms + GROUP - 1) / GROUP * GROUP;
    for (size_t t = 0; t < padded; t++) {
        word(*to)[GROUP][2][8] = scratch->ys[t / GROUP];
        const size_t j = first + (t < terms ? t : 0);
        const word *y0 = y_at(d, j, s->c, s->i, s->from), *y1 = y_at(d, j, s->second, s->i, s->from);
        for (size_t v = 0; v < s->vectors; v++) {
            const __m512i zero = _mm512_setzero_si512();
            store(to[v][t % GROUP][0], t < terms ? load(y0 + 8 * v) : zero);
            store(to[v][t % GROUP][1], t < terms ? load(y1 + 8 * v) : zero);
        }
    }
}

/* sums += x y for one group of terms; x: one pointer for each. */
TARGET_AVX512 INLINE void add_group(const word *const x[GROUP], const word (*ys)[GROUP][2][8], struct sums *sums,
                                    size_t vectors) {
    for (size_t v = 0; v < vectors; v++) {
        __m512i low0 = load(sums[v].low0), high0 = load(sums[v].high0);
        __m512i low1 = load(sums[v].low1), high1 = load(sums[v].high1);
#pragma GCC unroll 8
        for (int t = 0; t < GROUP; t++) {
            const __m512i a = load(x[t] + 8 * v), u = load(ys[v][t][0]), w = load(ys[v][t][1]);
            low0 = _mm512_madd52lo_epu64(low0, a, u);
            high0 = _mm512_madd52hi_epu64(high0, a, u);
            low1 = _mm512_madd52lo_epu64(low1, a, w);
            high1 = _mm512_madd52hi_epu64(high1, a, w);
        }
        store(sums[v].low0, low0), store(sums[v].high0, high0);
        store(sums[v].low1, low1), store(sums[v].high1, high1);
    }
}

TARGET_AVX512 static void add_chunk(const struct dot *d, const struct strip *s, size_t b, size_t first, size_t terms,
                                    const struct scratch *scratch, struct sums *sums) {
    for (size_t done = 0; done < terms; done += GROUP) {
        const word *x[GROUP];
        for (size_t t = 0; t < GROUP; t++) {
            const size_t j = done + t < terms ? first + done + t : first; /* times zero */
            x[t] = x_at(d, b, j, s->i, s->from);
        }
        add_group(x, scratch->ys[done / GROUP], sums, s->vectors);
    }
}

/* The sums so far become residues, with nothing in the high halves. */
TARGET_AVX512 static void fold(struct sums *sums, size_t vectors, const struct lanes *m) {
    for (size_t v = 0; v < vectors; v++) {
        store(sums[v].low0, lanes_reduce_sum(load(sums[v].low0), load(sums[v].high0), m));
        store(sums[v].low1, lanes_reduce_sum(load(sums[v].low1), load(sums[v].high1), m));
        store(sums[v].high0, _mm512_setzero_si512());
        store(sums[v].high1, _mm512_setzero_si512());
    }
}

/* One strip of the blocks [first, first + blocks). */
TARGET_AVX512 static void dot_strip(const struct dot *d, const struct strip *s, const struct lanes *m, size_t first,
                                    size_t blocks, struct scratch *scratch) {
    memset(scratch->sums, 0, blocks * sizeof scratch->sums[0]);
    const size_t chunk = blocks == 1 ? GROUP : CHUNK; /* ys that are read once need not stay */
    for (size_t j = 0, since = 1; j < d->terms; j += chunk, since += chunk) {
        const size_t terms = d->terms - j < chunk ? d->terms - j : chunk;
        pack_ys(d, s, j, terms, scratch);
        const int full = since + chunk > LAZY_TERMS; /* what was folded counts as a term */
        if (full) since = 1;
        for (size_t b = 0; b < blocks; b++) {
            if (full) fold(scratch->sums[b], s->vectors, m);
            add_chunk(d, s, first + b, j, terms, scratch, scratch->sums[b]);
        }
    }
    for (size_t b = 0; b < blocks; b++) {
        struct sums *sums = scratch->sums[b];
        fold(sums, s->vectors, m);
        word *out0 = out_at(d, first + b, s->c, s->i, s->from), *out1 = out_at(d, first + b, s->second, s->i, s->from);
        for (size_t v = 0; v < s->vectors; v++) {
            store(out0 + 8 * v, load(sums[v].low0));
            store(out1 + 8 * v, load(sums[v].low1));
        }
    }
}

TARGET_AVX512 static void dot_lanes(const struct dot *d, size_t i, struct scratch *scratch) {
    const struct lanes m = make_lanes(d->primes[i]);
    const size_t length = d->degree < STRIP ? d->degree : STRIP;
    for (size_t first = 0; first < d->blocks; first += BATCH) {
        const size_t left = d->blocks - first, blocks = left < BATCH ? left : BATCH;
        for (size_t c = 0; c < d->width; c += 2)
            for (size_t from = 0; from < d->degree; from += length) {
                const struct strip s = {i, from, length / 8, c, c + 1 < d->width ? c + 1 : c};
                dot_strip(d, &s, &m, first, blocks, scratch);
            }
    }
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
    int memory = 1;
#if RING_X86
    struct scratch *scratch = NULL;
    if (good && ring_level >= LEVEL_AVX512) memory = (scratch = malloc(sizeof *scratch)) != NULL;
#endif
    if (good && memory) {
        PyThreadState *state = unlock(b[0].size);
        for (size_t i = 0; i < d.k; i++) {
#if RING_X86
            if (fast_prime(d.primes[i], d.degree))
                dot_lanes(&d, i, scratch);
            else if (ring_level >= LEVEL_AVX2)
                dot_avx2(&d, i);
            else
#endif
                dot_c(&d, i);
        }
        lock(state);
    }
#if RING_X86
    free(scratch);
#endif
    release(b, 4);
    if (!good) return refuse("dot");
    if (!memory) return PyErr_NoMemory();
    Py_RETURN_NONE;
}
