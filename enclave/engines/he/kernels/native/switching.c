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

/* ---- to and from the torus */

/* to_torus(x, out, primes, weights, fractions, degree, bits): [n, k, N] -> [n, N], the top bits of
 * sum_i (x_i w_i mod p_i) f_i + 2^(127 - bits) modulo 2^128 */
PyObject *py_to_torus(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 7) return PyErr_Format(PyExc_TypeError, "to_torus: expected seven arguments");
    const size_t degree = PyLong_AsSize_t(args[5]), bits = PyLong_AsSize_t(args[6]);
    if (PyErr_Occurred() || !degree_fits(degree)) return NULL;
    struct array b[5];
    if (take(args, 5, b, 2) < 0) return NULL;
    const size_t k = b[2].size, n = k ? b[0].size / (k * degree) : 0;
    const int good = k && bits >= 1 && bits <= 64 && b[0].size == n * k * degree && b[1].size == n * degree &&
                     b[3].size == k && b[4].size == 2 * k;
    if (good) {
        PyThreadState *state = unlock(b[0].size);
        enum { STRIP = 16 };
        for (size_t r = 0; r < n; r++)
            for (size_t from = 0; from < degree; from += STRIP) {
                wide sums[STRIP];
                for (size_t s = 0; s < STRIP; s++) sums[s] = (wide)1 << (127 - bits);
                for (size_t i = 0; i < k; i++) {
                    const uint64_t p = b[2].at[i], w = b[3].at[i], ratio = quotient(w, p);
                    const wide fraction = (wide)b[4].at[2 * i + 1] << 64 | b[4].at[2 * i];
                    const word *x = b[0].at + (r * k + i) * degree + from;
                    for (size_t s = 0; s < STRIP; s++) sums[s] += times(x[s], w, ratio, p) * fraction;
                }
                word *out = b[1].at + r * degree + from;
                for (size_t s = 0; s < STRIP; s++) out[s] = (uint64_t)(sums[s] >> 64) >> (64 - bits);
            }
        lock(state);
    }
    release(b, 5);
    if (!good) return refuse("to_torus");
    Py_RETURN_NONE;
}

/* from_torus(m, out, primes, inverses, degree, modulus, bits): [n, N] -> [n, k, N]; modulus: q modulo 2^64 */
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
        for (size_t i = 0; i < k; i++) {
            const struct modulus m = make_modulus(b[2].at[i]);
            const uint64_t inverse = b[3].at[i], ratio = quotient(inverse, m.p);
            for (size_t r = 0; r < n; r++)
                for (size_t s = 0; s < degree; s++) {
                    const uint64_t top = b[0].at[r * degree + s] * q << (64 - bits);
                    const int64_t centred = (int64_t)top >> (64 - bits);
                    const uint64_t u = reduce_word((uint64_t)centred, &m);
                    const uint64_t v = below(u + m.p - (m.top & (0 - (top >> 63))), m.p);
                    b[1].at[(r * k + i) * degree + s] = times(m.p - v, inverse, ratio, m.p);
                }
        }
        lock(state);
    }
    release(b, 4);
    if (!good) return refuse("from_torus");
    Py_RETURN_NONE;
}
