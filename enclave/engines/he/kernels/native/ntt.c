/* Number theoretic transforms with lazy reduction (Harvey, J. Symbolic Computation 60, 2014). The twiddle factors are a
 * heap: node i splits its block by root i into nodes 2i and 2i + 1. */
#include "ring.h"

/* ---- any prime below 2^61, by 64-bit words: values stay below 4 p */

static void forward_words(const struct transform *t, word *x) {
    const uint64_t p = t->p, twice = 2 * p;
    for (size_t groups = 1, half = t->degree / 2; half; groups *= 2, half /= 2)
        for (size_t g = 0; g < groups; g++) {
            const uint64_t w = t->roots[groups + g], ratio = t->ratios[groups + g];
            word *a = x + 2 * half * g, *b = a + half;
            for (size_t i = 0; i < half; i++) {
                const uint64_t u = below(a[i], twice), v = times_lazy(b[i], w, ratio, p);
                a[i] = u + v;
                b[i] = u + twice - v;
            }
        }
    for (size_t i = 0; i < t->degree; i++) x[i] = below(below(x[i], twice), p);
}

static void inverse_words(const struct transform *t, word *x) {
    const uint64_t p = t->p, twice = 2 * p;
    for (size_t groups = t->degree / 2, half = 1; groups; groups /= 2, half *= 2)
        for (size_t g = 0; g < groups; g++) {
            const uint64_t w = t->roots[groups + g], ratio = t->ratios[groups + g];
            word *a = x + 2 * half * g, *b = a + half;
            for (size_t i = 0; i < half; i++) {
                const uint64_t u = a[i], v = b[i];
                a[i] = below(u + v, twice);
                b[i] = times_lazy(u + twice - v, w, ratio, p);
            }
        }
    for (size_t i = 0; i < t->degree; i++) x[i] = times(x[i], t->scale, t->scale_ratio, p);
}

/* ---- primes below 2^50, eight at a time */

#if RING_X86
/* a, b < 4 p become a + w b and a - w b, < 4 p */
TARGET_AVX512 INLINE void split(__m512i *a, __m512i *b, __m512i w, __m512i ratio, const struct lanes *m) {
    const __m512i u = lanes_below(*a, m->twice), v = lanes_times(*b, w, ratio, m);
    *a = _mm512_add_epi64(u, v);
    *b = _mm512_sub_epi64(_mm512_add_epi64(u, m->twice), v);
}

/* a, b < 2 p become a + b and w (a - b), < 2 p */
TARGET_AVX512 INLINE void join(__m512i *a, __m512i *b, __m512i w, __m512i ratio, const struct lanes *m) {
    const __m512i u = *a, v = *b;
    *a = lanes_below(_mm512_add_epi64(u, v), m->twice);
    *b = lanes_times(_mm512_sub_epi64(_mm512_add_epi64(u, m->twice), v), w, ratio, m);
}

#define ROOT(i) spread(t->lane_roots[i]), spread(t->lane_ratios[i]), m
#define ROOTS(i) load(t->lane_roots + (i)), load(t->lane_ratios + (i)), m

/* Six layers of 64 words in registers: three between vectors, three between the words of a vector. */
TARGET_AVX512 INLINE void forward_64(const struct transform *t, const struct lanes *m, word *x, size_t node) {
    __m512i r[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = load(x + 8 * i);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) split(&r[i], &r[i + 4], ROOT(node));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) split(&r[i + 2 * (i / 2)], &r[i + 2 * (i / 2) + 2], ROOT(2 * node + (size_t)i / 2));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) split(&r[2 * i], &r[2 * i + 1], ROOT(4 * node + (size_t)i));
    transpose(r);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) split(&r[i], &r[i + 4], ROOTS(8 * node));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        split(&r[i + 2 * (i / 2)], &r[i + 2 * (i / 2) + 2], ROOTS(16 * node + 8 * ((size_t)i / 2)));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) split(&r[2 * i], &r[2 * i + 1], ROOTS(32 * node + 8 * (size_t)i));
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = lanes_below(lanes_below(r[i], m->twice), m->p);
    transpose(r);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) store(x + 8 * i, r[i]);
}

TARGET_AVX512 INLINE void inverse_64(const struct transform *t, const struct lanes *m, const word *x, word *out,
                                     size_t node) {
    __m512i r[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = load(x + 8 * i);
    transpose(r);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) join(&r[2 * i], &r[2 * i + 1], ROOTS(32 * node + 8 * (size_t)i));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        join(&r[i + 2 * (i / 2)], &r[i + 2 * (i / 2) + 2], ROOTS(16 * node + 8 * ((size_t)i / 2)));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) join(&r[i], &r[i + 4], ROOTS(8 * node));
    transpose(r);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) join(&r[2 * i], &r[2 * i + 1], ROOT(4 * node + (size_t)i));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) join(&r[i + 2 * (i / 2)], &r[i + 2 * (i / 2) + 2], ROOT(2 * node + (size_t)i / 2));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) join(&r[i], &r[i + 4], ROOT(node));
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) store(out + 8 * i, r[i]);
}

/* Depth first, so that blocks of 512 words and less stay in the first cache. */
TARGET_AVX512 static void forward_lanes(const struct transform *t, const struct lanes *shared, const word *x, word *out,
                                        size_t size, size_t node) {
    const struct lanes local = *shared, *const m = &local; /* in registers: nothing that is stored can change it */
    if (size == 64) {
        if (x != out) memcpy(out, x, 64 * 8);
        forward_64(t, m, out, node);
        return;
    }
    if (size == 128) {
        const __m512i w = spread(t->lane_roots[node]), ratio = spread(t->lane_ratios[node]);
        for (size_t i = 0; i < 64; i += 8) {
            __m512i a = load(x + i), b = load(x + 64 + i);
            split(&a, &b, w, ratio, m);
            store(out + i, a);
            store(out + 64 + i, b);
        }
        forward_64(t, m, out, 2 * node);
        forward_64(t, m, out + 64, 2 * node + 1);
        return;
    }
    const size_t quarter = size / 4;
    const __m512i w = spread(t->lane_roots[node]), ratio = spread(t->lane_ratios[node]);
    const __m512i w0 = spread(t->lane_roots[2 * node]), ratio0 = spread(t->lane_ratios[2 * node]);
    const __m512i w1 = spread(t->lane_roots[2 * node + 1]), ratio1 = spread(t->lane_ratios[2 * node + 1]);
    for (size_t i = 0; i < quarter; i += 8) {
        __m512i a = load(x + i), b = load(x + quarter + i), c = load(x + 2 * quarter + i), d = load(x + 3 * quarter + i);
        split(&a, &c, w, ratio, m);
        split(&b, &d, w, ratio, m);
        split(&a, &b, w0, ratio0, m);
        split(&c, &d, w1, ratio1, m);
        store(out + i, a);
        store(out + quarter + i, b);
        store(out + 2 * quarter + i, c);
        store(out + 3 * quarter + i, d);
    }
    for (size_t i = 0; i < 4; i++)
        forward_lanes(t, shared, out + quarter * i, out + quarter * i, quarter, 4 * node + i);
}

TARGET_AVX512 static void inverse_lanes(const struct transform *t, const struct lanes *shared, const word *x, word *out,
                                        size_t size, size_t node) {
    const struct lanes local = *shared, *const m = &local;
    if (size == 64) {
        inverse_64(t, m, x, out, node);
        return;
    }
    const __m512i w = spread(t->lane_roots[node]), ratio = spread(t->lane_ratios[node]);
    if (size == 128) {
        inverse_64(t, m, x, out, 2 * node);
        inverse_64(t, m, x + 64, out + 64, 2 * node + 1);
        for (size_t i = 0; i < 64; i += 8) {
            __m512i a = load(out + i), b = load(out + 64 + i);
            join(&a, &b, w, ratio, m);
            store(out + i, a);
            store(out + 64 + i, b);
        }
        return;
    }
    const size_t quarter = size / 4;
    for (size_t i = 0; i < 4; i++) inverse_lanes(t, shared, x + quarter * i, out + quarter * i, quarter, 4 * node + i);
    const __m512i w0 = spread(t->lane_roots[2 * node]), ratio0 = spread(t->lane_ratios[2 * node]);
    const __m512i w1 = spread(t->lane_roots[2 * node + 1]), ratio1 = spread(t->lane_ratios[2 * node + 1]);
    const int last = node == 1;
    const __m512i scale = spread(t->scale), scale_ratio = spread(t->scale_ratio >> 12);
    for (size_t i = 0; i < quarter; i += 8) {
        __m512i r[4];
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++) r[k] = load(out + k * quarter + i);
        join(&r[0], &r[1], w0, ratio0, m);
        join(&r[2], &r[3], w1, ratio1, m);
        join(&r[0], &r[2], w, ratio, m);
        join(&r[1], &r[3], w, ratio, m);
        if (last) {
#pragma GCC unroll 4
            for (size_t k = 0; k < 4; k++) r[k] = lanes_below(lanes_times(r[k], scale, scale_ratio, m), m->p);
        }
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++) store(out + k * quarter + i, r[k]);
    }
}

TARGET_AVX512 static void forward_fast(const struct transform *t, const word *x, word *out) {
    const struct lanes m = make_lanes(t->p);
    forward_lanes(t, &m, x, out, t->degree, 1);
}

TARGET_AVX512 static void inverse_fast(const struct transform *t, const word *x, word *out) {
    const struct lanes m = make_lanes(t->p);
    inverse_lanes(t, &m, x, out, t->degree, 1);
    if (t->degree >= 256) return; /* scaled on the way */
    const __m512i scale = spread(t->scale), ratio = spread(t->scale_ratio >> 12);
    for (size_t i = 0; i < t->degree; i += 8)
        store(out + i, lanes_below(lanes_times(load(out + i), scale, ratio, &m), m.p));
}
#endif

void forward(const struct transform *t, const word *x, word *out) {
#if RING_X86
    if (fast_prime(t->p, t->degree)) {
        forward_fast(t, x, out);
        return;
    }
#endif
    if (x != out) memcpy(out, x, 8 * t->degree);
    forward_words(t, out);
}

void inverse(const struct transform *t, const word *x, word *out) {
#if RING_X86
    if (fast_prime(t->p, t->degree)) {
        inverse_fast(t, x, out);
        return;
    }
#endif
    if (x != out) memcpy(out, x, 8 * t->degree);
    inverse_words(t, out);
}

/* ntt(x, out, primes, roots, ratios, lanes, degree) and intt(..., lanes, scales, degree); out may be x */
static PyObject *transform_rows(PyObject *const *args, Py_ssize_t count, const int backward) {
    const int buffers = backward ? 7 : 6;
    if (count != buffers + 1) return PyErr_Format(PyExc_TypeError, "expected %d arguments", buffers + 1);
    const size_t degree = PyLong_AsSize_t(args[buffers]);
    if (!degree_fits(degree)) return NULL;
    struct array b[7];
    if (take(args, buffers, b, 2) < 0) return NULL;
    const size_t k = b[2].size, rows = b[0].size / degree;
    const int good = k && b[0].size == rows * degree && rows % k == 0 && b[1].size == b[0].size &&
                     b[3].size == k * degree && b[4].size == k * degree && b[5].size == 2 * k * degree &&
                     (!backward || b[6].size == 2 * k);
    if (good) {
        PyThreadState *state = unlock(b[0].size);
        for (size_t r = 0; r < rows; r++) {
            const size_t i = r % k;
            struct transform t = {.degree = degree, .p = b[2].at[i],
                                  .roots = b[3].at + i * degree, .ratios = b[4].at + i * degree,
                                  .lane_roots = b[5].at + 2 * i * degree, .lane_ratios = b[5].at + (2 * i + 1) * degree};
            if (backward) {
                t.scale = b[6].at[2 * i], t.scale_ratio = b[6].at[2 * i + 1];
                inverse(&t, b[0].at + r * degree, b[1].at + r * degree);
            } else {
                forward(&t, b[0].at + r * degree, b[1].at + r * degree);
            }
        }
        lock(state);
    }
    release(b, buffers);
    if (!good) return refuse("ntt");
    Py_RETURN_NONE;
}

PyObject *py_ntt(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    return transform_rows(args, count, 0);
}

PyObject *py_intt(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    return transform_rows(args, count, 1);
}
