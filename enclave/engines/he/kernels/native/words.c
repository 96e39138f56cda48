/* Residues as packed bits, as accepted draws, and in another order. */
#include "ring.h"

/* pack(x, out, bits): [n] words below 2^bits -> packed, the lowest bits first; the rest of the last word is zero */
PyObject *py_pack(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 3) return PyErr_Format(PyExc_TypeError, "pack: expected three arguments");
    const size_t bits = PyLong_AsSize_t(args[2]);
    if (PyErr_Occurred()) return NULL;
    struct array b[2];
    if (take(args, 2, b, 2) < 0) return NULL;
    const size_t n = b[0].size;
    const int good = bits >= 1 && bits <= 63 && b[1].size == (n * bits + 63) / 64;
    if (good) {
        const uint64_t mask = (1ull << bits) - 1;
        PyThreadState *state = unlock(n);
        const word *x = b[0].at;
        word *out = b[1].at;
        wide pending = 0;
        size_t held = 0; /* bits of it, below 64 */
        for (size_t i = 0; i < n; i++) {
            pending |= (wide)(x[i] & mask) << held;
            held += bits;
            if (held >= 64) {
                *out++ = (uint64_t)pending;
                pending >>= 64;
                held -= 64;
            }
        }
        if (held) *out = (uint64_t)pending;
        lock(state);
    }
    release(b, 2);
    if (!good) return refuse("pack");
    Py_RETURN_NONE;
}

/* unpack(words, out, bits, limit): the inverse; whether all are below `limit` and the rest of the last word is zero */
PyObject *py_unpack(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 4) return PyErr_Format(PyExc_TypeError, "unpack: expected four arguments");
    const size_t bits = PyLong_AsSize_t(args[2]);
    const uint64_t limit = PyLong_AsUnsignedLongLong(args[3]);
    if (PyErr_Occurred()) return NULL;
    struct array b[2];
    if (take(args, 2, b, 2) < 0) return NULL;
    const size_t n = b[1].size;
    const int good = bits >= 1 && bits <= 63 && b[0].size == (n * bits + 63) / 64;
    uint64_t wrong = 0;
    if (good) {
        const uint64_t mask = (1ull << bits) - 1;
        PyThreadState *state = unlock(n);
        const word *x = b[0].at;
        word *out = b[1].at;
        wide pending = 0;
        size_t held = 0;
        for (size_t i = 0; i < n; i++) {
            if (held < bits) {
                pending |= (wide)*x++ << held;
                held += 64;
            }
            const uint64_t v = (uint64_t)pending & mask;
            wrong |= (uint64_t)(v >= limit);
            out[i] = v;
            pending >>= bits;
            held -= bits;
        }
        wrong |= (uint64_t)pending;
        lock(state);
    }
    release(b, 2);
    if (!good) return refuse("unpack");
    return PyBool_FromLong(wrong == 0);
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

/* permute(x, out, source, degree): out[i] = x[source[i]] in each row */
PyObject *py_permute(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 4) return PyErr_Format(PyExc_TypeError, "permute: expected four arguments");
    const size_t degree = PyLong_AsSize_t(args[3]);
    if (!degree_fits(degree)) return NULL;
    struct array b[3];
    if (take(args, 3, b, 2) < 0) return NULL;
    const size_t rows = b[0].size / degree;
    const int good = b[0].size == rows * degree && b[1].size == b[0].size && b[2].size == degree;
    if (good) {
        PyThreadState *state = unlock(b[0].size);
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < degree; i++)
                b[1].at[r * degree + i] = b[0].at[r * degree + (b[2].at[i] & (degree - 1))];
        lock(state);
    }
    release(b, 3);
    if (!good) return refuse("permute");
    Py_RETURN_NONE;
}
