/* Distributed comparison functions: keys for x -> beta [x < alpha], and their evaluation; see kernels.dcf_keys.
 *
 * A binary tree over the bits of x, highest first. Of a node each party has a seed of 128 bits whose lowest bit is its
 * control bit; off the path to alpha both have the same seed, on it they differ by a constant delta with lowest bit 1.
 * Children: H(s) ^ (bit s) ^ (control bit of s) correction, with correction = H(s0) ^ H(s1) ^ (1 - bit of alpha) delta
 * (half-tree: one hash a level). Each child also yields words that cancel off the path and sum to a step of beta on it.
 * Hashes are AES under keys that are public and fresh for each batch.
 */
#include "kernels.h"

#define ROUNDS 10
#define MOST_BLOCKS 2

struct dcf {
    const uint8_t *schedules[1 + MOST_BLOCKS];
    int blocks, levels, party, generate;
    size_t n, payload;        /* elements; words of beta: blocks = payload / 2, rounded up */
    const word *roots[2];     /* (n, 2); one when evaluating */
    const word *points;       /* (n,): alpha, or x */
    const word *betas;        /* (payload, n) */
    const word *seeds;        /* (levels, n, 2) */
    const word *values;       /* (levels, payload, n) */
    word *seeds_out, *values_out, *sums; /* sums: (payload, n) */
};

#if KERNELS_X86

#define NAME(f) f##_128
#define TARGET TARGET_AES
#define VEC __m128i
#define LANES 1u
#define ZERO _mm_setzero_si128()
#define XOR _mm_xor_si128
#define AND _mm_and_si128
#define ANDNOT _mm_andnot_si128
#define ADD _mm_add_epi64
#define SUB _mm_sub_epi64
#define ENC _mm_aesenc_si128
#define ENCLAST _mm_aesenclast_si128
#define SHIFT(x) _mm_slli_epi64(x, 1)
#define TOP(x) _mm_shuffle_epi32(_mm_srai_epi32(x, 31), 0xf5)
#define LOW(x) _mm_shuffle_epi32(SUB(ZERO, AND(x, _mm_set1_epi64x(1))), 0x44)
#define SIGMA(x) XOR(_mm_shuffle_epi32(x, 0x4e), _mm_slli_si128(_mm_srli_si128(x, 8), 8))
#define KEY(p) _mm_loadu_si128((const __m128i *)(p))
#define LOAD_BLOCKS(p, n) ((n) > 0 ? _mm_loadu_si128((const __m128i *)(p)) : ZERO)
#define STORE_BLOCKS(p, n, x) \
    do { \
        if ((n) > 0) _mm_storeu_si128((__m128i *)(p), x); \
    } while (0)
#define LOAD_TWICE(p, n) ((n) > 0 ? _mm_set1_epi64x((long long)*(p)) : ZERO)
#define LOAD_ROWS(p, q, n) \
    ((n) > 0 ? _mm_set_epi64x((q) == NULL ? 0 : (long long)*(q), (long long)*(p)) : ZERO)
#define STORE_ROWS(p, q, n, x) \
    do { \
        const __m128i out_ = (x); \
        if ((n) > 0) { \
            *(p) = (uint64_t)_mm_cvtsi128_si64(out_); \
            if ((q) != NULL) *(q) = (uint64_t)_mm_cvtsi128_si64(_mm_srli_si128(out_, 8)); \
        } \
    } while (0)
#include "dcf_lanes.h"

#undef NAME
#undef TARGET
#undef VEC
#undef LANES
#undef ZERO
#undef XOR
#undef AND
#undef ANDNOT
#undef ADD
#undef SUB
#undef ENC
#undef ENCLAST
#undef SHIFT
#undef TOP
#undef LOW
#undef SIGMA
#undef KEY
#undef LOAD_BLOCKS
#undef STORE_BLOCKS
#undef LOAD_TWICE
#undef LOAD_ROWS
#undef STORE_ROWS

#define NAME(f) f##_512
#define TARGET TARGET_AVX512
#define VEC __m512i
#define LANES 4u
#define ZERO _mm512_setzero_si512()
#define XOR _mm512_xor_si512
#define AND _mm512_and_si512
#define ANDNOT _mm512_andnot_si512
#define ADD _mm512_add_epi64
#define SUB _mm512_sub_epi64
#define ENC _mm512_aesenc_epi128
#define ENCLAST _mm512_aesenclast_epi128
#define SHIFT(x) _mm512_slli_epi64(x, 1)
#define TOP(x) _mm512_srai_epi64(x, 63)
#define LOW(x) _mm512_shuffle_epi32(SUB(ZERO, AND(x, _mm512_set1_epi64(1))), 0x44)
#define SIGMA(x) XOR(_mm512_shuffle_epi32(x, 0x4e), _mm512_maskz_mov_epi64(0xaa, x))
#define KEY(p) _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(p)))
#define PAIRS(n) ((__mmask8)((1 << 2 * (n)) - 1))
#define LOAD_BLOCKS(p, n) _mm512_maskz_loadu_epi64(PAIRS(n), p)
#define STORE_BLOCKS(p, n, x) _mm512_mask_storeu_epi64(p, PAIRS(n), x)
#define LOAD_TWICE(p, n) \
    _mm512_permutexvar_epi64(_mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0), \
                             _mm512_maskz_loadu_epi64((__mmask8)((1 << (n)) - 1), p))
#define LOAD_ROWS(p, q, n) \
    _mm512_or_si512(_mm512_maskz_expandloadu_epi64(0x55 & PAIRS(n), p), \
                    (q) == NULL ? ZERO : _mm512_maskz_expandloadu_epi64(0xaa & PAIRS(n), q))
#define STORE_ROWS(p, q, n, x) \
    do { \
        const __m512i out_ = (x); \
        const __mmask8 first_ = (__mmask8)((1 << (n)) - 1); \
        _mm512_mask_storeu_epi64(p, first_, _mm512_maskz_compress_epi64(0x55, out_)); \
        if ((q) != NULL) _mm512_mask_storeu_epi64(q, first_, _mm512_maskz_compress_epi64(0xaa, out_)); \
    } while (0)
#include "dcf_lanes.h"

static void dcf(const struct dcf *d) {
    if (kernels_level >= LEVEL_AVX512)
        dcf_512(d);
    else
        dcf_128(d);
}

#else

static void dcf(const struct dcf *d) { (void)d; }

#endif

/* Checks what both functions have in common; -1 with an exception. */
static int take_schedules(struct dcf *d, PyObject *schedules) {
    if (kernels_level < LEVEL_AVX2) {
        PyErr_SetString(PyExc_NotImplementedError, "no AES instructions");
        return -1;
    }
    d->blocks = (int)(d->payload + 1) / 2;
    int good = PyTuple_Check(schedules) && d->blocks >= 1 && d->blocks <= MOST_BLOCKS &&
               PyTuple_GET_SIZE(schedules) == 1 + d->blocks && d->levels >= 1 && d->levels <= 64;
    for (int i = 0; good && i <= d->blocks; i++) {
        PyObject *bytes = PyTuple_GET_ITEM(schedules, i);
        good = PyBytes_Check(bytes) && PyBytes_GET_SIZE(bytes) == 16 * (ROUNDS + 1);
        if (good) d->schedules[i] = (const uint8_t *)PyBytes_AS_STRING(bytes);
    }
    if (!good) PyErr_SetString(PyExc_ValueError, "dcf: expected 1 to 4 words, 1 to 64 levels, a key schedule for each hash");
    return good ? 0 : -1;
}

#define MOST_BUFFERS 6

static int take_arrays(PyObject *const *objects, Py_buffer *buffers, int count, int first_output) {
    for (int i = 0; i < count; i++)
        if (take_buffer(objects[i], &buffers[i], "dcf", -1, 8, i >= first_output) < 0) {
            while (i--) PyBuffer_Release(&buffers[i]);
            return -1;
        }
    return 0;
}

/* Runs when all arrays have the lengths that n, levels and payload ask for. */
static PyObject *run(struct dcf *d, PyObject *schedules, Py_buffer *buffers, int count, const size_t *lengths) {
    PyObject *result = NULL;
    int good = 1;
    for (int i = 0; i < count; i++) good &= (size_t)buffers[i].len == 8 * lengths[i];
    if (!good) {
        PyErr_SetString(PyExc_ValueError, "dcf: expected arrays for one number of elements, levels and words");
    } else if (take_schedules(d, schedules) == 0) {
        PyThreadState *state = unlock((Py_ssize_t)(d->n * (size_t)d->levels * 32));
        dcf(d);
        lock(state);
        result = Py_NewRef(Py_None);
    }
    for (int i = 0; i < count; i++) PyBuffer_Release(&buffers[i]);
    return result;
}

/* dcf_keys(schedules, levels, alphas (n,), betas (p, n), roots0 (n, 2), roots1, seeds (l, n, 2), values (l, p, n)) */
PyObject *py_dcf_keys(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    Py_buffer b[MOST_BUFFERS];
    if (count != 8) return PyErr_Format(PyExc_TypeError, "dcf_keys: expected eight arguments");
    struct dcf d = {.levels = (int)PyLong_AsLong(args[1]), .generate = 1};
    if (PyErr_Occurred() || take_arrays(args + 2, b, 6, 4) < 0) return NULL;
    d.n = (size_t)b[0].len / 8, d.payload = b[1].ndim == 2 ? (size_t)b[1].shape[0] : 0;
    d.points = b[0].buf, d.betas = b[1].buf, d.roots[0] = b[2].buf, d.roots[1] = b[3].buf;
    d.seeds_out = b[4].buf, d.values_out = b[5].buf;
    const size_t l = (size_t)d.levels;
    const size_t lengths[] = {d.n, d.payload * d.n, 2 * d.n, 2 * d.n, 2 * l * d.n, l * d.payload * d.n};
    return run(&d, args[0], b, 6, lengths);
}

/* dcf_evaluate(schedules, levels, party, points (n,), roots (n, 2), seeds (l, n, 2), values (l, p, n), sums (p, n)) */
PyObject *py_dcf_evaluate(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    Py_buffer b[MOST_BUFFERS];
    if (count != 8) return PyErr_Format(PyExc_TypeError, "dcf_evaluate: expected eight arguments");
    struct dcf d = {.levels = (int)PyLong_AsLong(args[1]), .party = (int)PyLong_AsLong(args[2])};
    if (PyErr_Occurred() || take_arrays(args + 3, b, 5, 4) < 0) return NULL;
    d.n = (size_t)b[0].len / 8, d.payload = b[4].ndim == 2 ? (size_t)b[4].shape[0] : 0;
    d.points = b[0].buf, d.roots[0] = b[1].buf, d.seeds = b[2].buf, d.values = b[3].buf, d.sums = b[4].buf;
    const size_t l = (size_t)d.levels;
    const size_t lengths[] = {d.n, 2 * d.n, 2 * l * d.n, l * d.payload * d.n, d.payload * d.n};
    return run(&d, args[0], b, 5, lengths);
}
