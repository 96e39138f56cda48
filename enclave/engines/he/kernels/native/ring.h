/* What the files of this extension share: words, buffers, moduli, and the choice of instructions.
 *
 * Constant time: no kernel branches on, or computes an address from, anything but shapes, primes and public numbers;
 * `accept` alone looks at its words, of which it throws away the ones that it looked at and refused.
 */
#ifndef ENCLAVE_RING_H
#define ENCLAVE_RING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define RING_X86 1
#include <immintrin.h>
#define TARGET_AVX2 __attribute__((target("avx2,bmi2,fma")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512ifma,avx2,bmi2,fma")))
#else
#define RING_X86 0
#endif

#define INLINE static inline __attribute__((always_inline))
#define FAST_BITS 50          /* primes below 2^50 go by 52-bit multipliers */
#define SMALLEST_VECTOR 64    /* the shortest transform that those do */

/* A word at any address: numpy arrays may be unaligned. */
typedef uint64_t word __attribute__((aligned(1), may_alias));
typedef int64_t signed_word __attribute__((aligned(1), may_alias));
typedef unsigned __int128 wide;

/* Instruction sets, each containing the ones before. */
enum level { LEVEL_C, LEVEL_AVX2, LEVEL_AVX512 };

extern int ring_level; /* written once, when the module is made */

/* Lets other Python threads run while `work` simple steps are done; for few of them the lock is kept. */
static inline PyThreadState *unlock(size_t work) { return work < (1 << 14) ? NULL : PyEval_SaveThread(); }

static inline void lock(PyThreadState *state) {
    if (state != NULL) PyEval_RestoreThread(state);
}

/* ---- buffers */

struct array {
    Py_buffer view;
    word *at;
    size_t size; /* in words */
};

/* Takes C-contiguous buffers of 8-byte items from the first `count` arguments, bit i of `writable` for the i-th. 0, or
 * -1 with an exception and nothing taken. */
int take(PyObject *const *args, int count, struct array *arrays, unsigned writable);
void release(struct array *arrays, int count);

/* Whether the degree is a power of two from 16 to 32,768, with an exception if not. */
int degree_fits(size_t degree);

PyObject *refuse(const char *what);

/* ---- one modulus, scalar */

struct modulus {
    uint64_t p, ratio;       /* floor(2^64 / p) */
    uint64_t top, top_ratio; /* 2^64 mod p, and its quotient floor(2^64 top / p) */
};

INLINE uint64_t high_word(uint64_t x, uint64_t y) { return (uint64_t)((wide)x * y >> 64); }

INLINE uint64_t quotient(uint64_t w, uint64_t p) { return (uint64_t)(((wide)w << 64) / p); }

INLINE struct modulus make_modulus(uint64_t p) {
    const uint64_t ratio = ~0ull / p, top = 0 - ratio * p;
    return (struct modulus){p, ratio, top, quotient(top, p)};
}

INLINE uint64_t below(uint64_t x, uint64_t p) { return x - (p & (0 - (uint64_t)(x >= p))); } /* x < 2 p */

/* x w modulo p up to a p, for a known factor w < p and any x (Shoup): below 2 p. */
INLINE uint64_t times_lazy(uint64_t x, uint64_t w, uint64_t w_ratio, uint64_t p) {
    return x * w - high_word(x, w_ratio) * p;
}

INLINE uint64_t times(uint64_t x, uint64_t w, uint64_t w_ratio, uint64_t p) {
    return below(times_lazy(x, w, w_ratio, p), p);
}

INLINE uint64_t reduce_wide(wide x, const struct modulus *m) {
    const uint64_t low = (uint64_t)x, p = m->p;
    uint64_t r = times_lazy((uint64_t)(x >> 64), m->top, m->top_ratio, p) + (low - high_word(low, m->ratio) * p);
    return below(below(r, 2 * p), p); /* r < 4 p < 2^63 */
}

INLINE uint64_t reduce_word(uint64_t x, const struct modulus *m) { return below(x - high_word(x, m->ratio) * m->p, m->p); }

/* ---- the same by 52-bit multipliers, eight at a time */

#if RING_X86
struct lanes {
    __m512i p, twice, minus, mask; /* p, 2 p, 2^52 - p, 2^52 - 1 */
    __m512i ratio;                 /* floor(2^52 / p) */
    __m512i top, top_ratio;        /* 2^52 mod p */
    __m512i next, next_ratio;      /* 2^104 mod p */
};

TARGET_AVX512 INLINE __m512i spread(uint64_t x) { return _mm512_set1_epi64((long long)x); }

TARGET_AVX512 INLINE struct lanes make_lanes(uint64_t p) {
    const uint64_t top = (1ull << 52) % p, next = (uint64_t)((wide)top * top % p);
    return (struct lanes){spread(p), spread(2 * p), spread((1ull << 52) - p), spread((1ull << 52) - 1),
                          spread((1ull << 52) / p), spread(top), spread(quotient(top, p) >> 12),
                          spread(next), spread(quotient(next, p) >> 12)};
}

TARGET_AVX512 INLINE __m512i load(const word *at) { return _mm512_loadu_si512(at); }
TARGET_AVX512 INLINE void store(word *at, __m512i x) { _mm512_storeu_si512(at, x); }

TARGET_AVX512 INLINE __m512i lanes_below(__m512i x, __m512i p) { return _mm512_min_epu64(x, _mm512_sub_epi64(x, p)); }

/* r[i] word k becomes r[k] word i. */
TARGET_AVX512 INLINE void transpose(__m512i r[8]) {
    __m512i t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm512_unpacklo_epi64(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi64(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        const __m512i a = _mm512_shuffle_i64x2(t[h], t[2 + h], 0x88), b = _mm512_shuffle_i64x2(t[h], t[2 + h], 0xdd);
        const __m512i c = _mm512_shuffle_i64x2(t[4 + h], t[6 + h], 0x88);
        const __m512i d = _mm512_shuffle_i64x2(t[4 + h], t[6 + h], 0xdd);
        r[h] = _mm512_shuffle_i64x2(a, c, 0x88);
        r[4 + h] = _mm512_shuffle_i64x2(a, c, 0xdd);
        r[2 + h] = _mm512_shuffle_i64x2(b, d, 0x88);
        r[6 + h] = _mm512_shuffle_i64x2(b, d, 0xdd);
    }
}

/* x w modulo p, below 2 p, for x < 2^52 and w_ratio = floor(2^52 w / p) */
TARGET_AVX512 INLINE __m512i lanes_times(__m512i x, __m512i w, __m512i w_ratio, const struct lanes *m) {
    const __m512i zero = _mm512_setzero_si512(), q = _mm512_madd52hi_epu64(zero, x, w_ratio);
    const __m512i t = _mm512_madd52lo_epu64(zero, x, w);
    return _mm512_and_si512(_mm512_madd52lo_epu64(t, q, m->minus), m->mask);
}

/* x modulo p, below 2 p, for x < 2^52 */
TARGET_AVX512 INLINE __m512i lanes_reduce(__m512i x, const struct lanes *m) {
    const __m512i q = _mm512_madd52hi_epu64(_mm512_setzero_si512(), x, m->ratio);
    return _mm512_and_si512(_mm512_madd52lo_epu64(x, q, m->minus), m->mask);
}

/* low + 2^52 high modulo p, for any low and for high < 2^60 */
TARGET_AVX512 INLINE __m512i lanes_reduce_sum(__m512i low, __m512i high, const struct lanes *m) {
    high = _mm512_add_epi64(high, _mm512_srli_epi64(low, 52));
    __m512i r = lanes_reduce(_mm512_and_si512(low, m->mask), m);
    r = _mm512_add_epi64(r, lanes_times(_mm512_and_si512(high, m->mask), m->top, m->top_ratio, m));
    r = _mm512_add_epi64(r, lanes_times(_mm512_srli_epi64(high, 52), m->next, m->next_ratio, m));
    r = lanes_below(lanes_below(r, _mm512_slli_epi64(m->p, 2)), m->twice); /* r was below 6 p */
    return lanes_below(r, m->p);
}

/* x y modulo p for x, y < p */
TARGET_AVX512 INLINE __m512i lanes_product(__m512i x, __m512i y, const struct lanes *m) {
    const __m512i zero = _mm512_setzero_si512(), low = _mm512_madd52lo_epu64(zero, x, y);
    const __m512i high = _mm512_madd52hi_epu64(zero, x, y);
    __m512i r = _mm512_add_epi64(lanes_reduce(low, m), lanes_times(high, m->top, m->top_ratio, m));
    return lanes_below(lanes_below(r, m->twice), m->p);
}
#endif

INLINE int fast_prime(uint64_t p, size_t degree) {
    return RING_X86 && ring_level >= LEVEL_AVX512 && p >> FAST_BITS == 0 && degree >= SMALLEST_VECTOR;
}

/* ---- transforms of one row, in place or from `x` to `out` */

struct transform {
    size_t degree;
    const word *roots, *ratios;             /* bit reversed, and floor(2^64 root / p) */
    const word *lane_roots, *lane_ratios;   /* in the order of the vectors, and floor(2^52 root / p) */
    uint64_t p, scale, scale_ratio;         /* 1 / N: for the inverse */
};

void forward(const struct transform *t, const word *x, word *out);
void inverse(const struct transform *t, const word *x, word *out);

/* int64 -> residues */
void reduce_signed_row(const signed_word *v, word *out, size_t n, uint64_t p);

/* Python functions, one group a file. */
PyObject *py_ntt(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_intt(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_combine(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_dot(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_encode_rows(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_reduce_signed(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_reduce_words(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_drop_last(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_to_torus(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_from_torus(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_pack(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_unpack(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_accept(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_automorphism(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_automorphism_ntt(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
