/* Sums, differences and products of residues, and sums of products that are reduced only at their end. */
#include "ring.h"

enum operation { ADD, SUBTRACT, MULTIPLY, MULTIPLY_ADD };

INLINE uint64_t combined(int operation, uint64_t x, uint64_t y, uint64_t z, const struct modulus *m) {
    if (operation == ADD) return below(x + y, m->p);
    if (operation == SUBTRACT) return below(x + m->p - y, m->p);
    if (operation == MULTIPLY) return reduce_wide((wide)x * y, m);
    return reduce_wide((wide)x * y + z, m);
}

INLINE void combine_words(int operation, const word *x, const word *y, word *out, size_t n, uint64_t p) {
    const struct modulus m = make_modulus(p);
    for (size_t i = 0; i < n; i++) out[i] = combined(operation, x[i], y[i], operation == MULTIPLY_ADD ? out[i] : 0, &m);
}

INLINE void combine_cases(int operation, const word *x, const word *y, word *out, size_t n, uint64_t p) {
    if (operation == ADD)
        combine_words(ADD, x, y, out, n, p);
    else if (operation == SUBTRACT)
        combine_words(SUBTRACT, x, y, out, n, p);
    else if (operation == MULTIPLY)
        combine_words(MULTIPLY, x, y, out, n, p);
    else
        combine_words(MULTIPLY_ADD, x, y, out, n, p);
}

#if RING_X86
TARGET_AVX2 static void combine_avx2(int operation, const word *x, const word *y, word *out, size_t n, uint64_t p) {
    combine_cases(operation, x, y, out, n, p);
}

TARGET_AVX512 static void combine_lanes(int operation, const word *x, const word *y, word *out, size_t n, uint64_t p) {
    const struct lanes m = make_lanes(p);
    for (size_t i = 0; i < n; i += 8) {
        const __m512i a = load(x + i), b = load(y + i);
        __m512i r;
        if (operation == ADD)
            r = lanes_below(_mm512_add_epi64(a, b), m.p);
        else if (operation == SUBTRACT)
            r = lanes_below(_mm512_sub_epi64(_mm512_add_epi64(a, m.p), b), m.p);
        else
            r = lanes_product(a, b, &m);
        if (operation == MULTIPLY_ADD) r = lanes_below(_mm512_add_epi64(r, load(out + i)), m.p);
        store(out + i, r);
    }
}
#endif

static void combine_c(int operation, const word *x, const word *y, word *out, size_t n, uint64_t p) {
    combine_cases(operation, x, y, out, n, p);
}

/* combine(operation, x, y, out, primes, degree): the shorter of x and y repeats; out may be x or y where those are as
 * long */
PyObject *py_combine(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 6) return PyErr_Format(PyExc_TypeError, "combine: expected six arguments");
    const long operation = PyLong_AsLong(args[0]);
    const size_t degree = PyLong_AsSize_t(args[5]);
    if (PyErr_Occurred() || !degree_fits(degree)) return NULL;
    struct array b[4];
    if (take(args + 1, 4, b, 4) < 0) return NULL;
    const size_t k = b[3].size, xs = b[0].size / degree, ys = b[1].size / degree, rows = b[2].size / degree;
    const int good = operation >= ADD && operation <= MULTIPLY_ADD && k && xs && ys && xs % k == 0 && ys % k == 0 &&
                     rows == (xs > ys ? xs : ys) && rows % xs == 0 && rows % ys == 0 && b[0].size == xs * degree &&
                     b[1].size == ys * degree && b[2].size == rows * degree;
    if (good) {
        PyThreadState *state = unlock(b[2].size);
        for (size_t r = 0; r < rows; r++) {
            const word *x = b[0].at + r % xs * degree, *y = b[1].at + r % ys * degree;
            word *out = b[2].at + r * degree;
            const uint64_t p = b[3].at[r % k];
#if RING_X86
            if (fast_prime(p, degree))
                combine_lanes((int)operation, x, y, out, degree, p);
            else if (ring_level >= LEVEL_AVX2)
                combine_avx2((int)operation, x, y, out, degree, p);
            else
#endif
                combine_c((int)operation, x, y, out, degree, p);
        }
        lock(state);
    }
    release(b, 4);
    if (!good) return refuse("combine");
    Py_RETURN_NONE;
}
