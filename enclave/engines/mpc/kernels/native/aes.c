/* AES-128-CTR key streams (FIPS 197, SP 800-38A): counter block = stream || index, both 8 bytes, big endian.
 *
 * Only with AES instructions: a portable AES needs either table look-ups, whose timing tells the key, or bit-slicing;
 * without the instructions the caller uses a library that has done that work.
 */
#include "kernels.h"

#define ROUNDS 10

enum operation { SET, ADD, SUBTRACT, XOR };

#if KERNELS_X86

TARGET_AES INLINE __m128i next_key(__m128i key, __m128i assist) {
    assist = _mm_shuffle_epi32(assist, 0xff);
    key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    key = _mm_xor_si128(key, _mm_slli_si128(key, 8));
    return _mm_xor_si128(key, assist);
}

TARGET_AES static void expand(const uint8_t *key, uint8_t *schedule) {
    __m128i k[ROUNDS + 1];
    k[0] = _mm_loadu_si128((const __m128i *)key);
#define STEP(i, constant) k[i] = next_key(k[i - 1], _mm_aeskeygenassist_si128(k[i - 1], constant))
    STEP(1, 0x01);
    STEP(2, 0x02);
    STEP(3, 0x04);
    STEP(4, 0x08);
    STEP(5, 0x10);
    STEP(6, 0x20);
    STEP(7, 0x40);
    STEP(8, 0x80);
    STEP(9, 0x1b);
    STEP(10, 0x36);
#undef STEP
    for (int i = 0; i <= ROUNDS; i++) _mm_storeu_si128((__m128i *)(schedule + 16 * i), k[i]);
}

TARGET_AES INLINE __m128i combine128(__m128i old, __m128i stream, enum operation op) {
    if (op == ADD) return _mm_add_epi64(old, stream);
    if (op == SUBTRACT) return _mm_sub_epi64(old, stream);
    return _mm_xor_si128(old, stream);
}

/* n blocks from `index`, n in flight at once. */
TARGET_AES INLINE void ctr_group(const __m128i *key, __m128i high, uint64_t index, int n, word *out, enum operation op) {
    __m128i x[8];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        __m128i low = _mm_cvtsi64_si128((long long)__builtin_bswap64(index + (uint64_t)i));
        x[i] = _mm_xor_si128(_mm_unpacklo_epi64(high, low), key[0]);
    }
#pragma GCC unroll 9
    for (int r = 1; r < ROUNDS; r++)
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) x[i] = _mm_aesenc_si128(x[i], key[r]);
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        __m128i *to = (__m128i *)(out + 2 * i);
        x[i] = _mm_aesenclast_si128(x[i], key[ROUNDS]);
        _mm_storeu_si128(to, op == SET ? x[i] : combine128(_mm_loadu_si128(to), x[i], op));
    }
}

TARGET_AES INLINE void ctr_128_op(const uint8_t *schedule, uint64_t stream, uint64_t index, size_t blocks, word *out,
                                  enum operation op) {
    __m128i key[ROUNDS + 1], high = _mm_cvtsi64_si128((long long)__builtin_bswap64(stream));
    for (int i = 0; i <= ROUNDS; i++) key[i] = _mm_loadu_si128((const __m128i *)(schedule + 16 * i));
    for (; blocks >= 8; blocks -= 8, index += 8, out += 16) ctr_group(key, high, index, 8, out, op);
    for (; blocks; blocks--, index++, out += 2) ctr_group(key, high, index, 1, out, op);
}

TARGET_AES static void ctr_128(const uint8_t *schedule, uint64_t stream, uint64_t index, size_t blocks, word *out,
                               enum operation op) {
    switch (op) {
        case SET: ctr_128_op(schedule, stream, index, blocks, out, SET); break;
        case ADD: ctr_128_op(schedule, stream, index, blocks, out, ADD); break;
        case SUBTRACT: ctr_128_op(schedule, stream, index, blocks, out, SUBTRACT); break;
        default: ctr_128_op(schedule, stream, index, blocks, out, XOR);
    }
}

TARGET_AVX512 INLINE void finish512(__m512i x, word *out, __mmask8 mask, enum operation op) {
    if (op != SET) {
        __m512i old = _mm512_maskz_loadu_epi64(mask, out);
        x = op == ADD ? _mm512_add_epi64(old, x) : op == SUBTRACT ? _mm512_sub_epi64(old, x) : _mm512_xor_si512(old, x);
    }
    _mm512_mask_storeu_epi64(out, mask, x);
}

/* 4 n blocks; `counters` holds pairs (stream, index) with the index not yet in big endian. */
TARGET_AVX512 INLINE __m512i ctr_wide(const __m512i *key, __m512i counters, int n, word *out, __mmask8 mask,
                                      enum operation op) {
    const __m512i four = _mm512_set_epi64(4, 0, 4, 0, 4, 0, 4, 0);
    const __m512i swap = _mm512_broadcast_i32x4(_mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 7, 6, 5, 4, 3, 2, 1, 0));
    __m512i x[8];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        x[i] = _mm512_xor_si512(_mm512_shuffle_epi8(counters, swap), key[0]);
        counters = _mm512_add_epi64(counters, four);
    }
#pragma GCC unroll 9
    for (int r = 1; r < ROUNDS; r++)
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) x[i] = _mm512_aesenc_epi128(x[i], key[r]);
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
        finish512(_mm512_aesenclast_epi128(x[i], key[ROUNDS]), out + 8 * i, i == n - 1 ? mask : 0xff, op);
    return counters;
}

TARGET_AVX512 INLINE void ctr_512_op(const uint8_t *schedule, uint64_t stream, uint64_t index, size_t blocks, word *out,
                                     enum operation op) {
    __m512i key[ROUNDS + 1];
    for (int i = 0; i <= ROUNDS; i++)
        key[i] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(schedule + 16 * i)));
    const long long high = (long long)__builtin_bswap64(stream), low = (long long)index;
    __m512i counters = _mm512_set_epi64(low + 3, high, low + 2, high, low + 1, high, low, high);
    for (; blocks >= 32; blocks -= 32, out += 64) counters = ctr_wide(key, counters, 8, out, 0xff, op);
    for (; blocks >= 16; blocks -= 16, out += 32) counters = ctr_wide(key, counters, 4, out, 0xff, op);
    for (; blocks >= 4; blocks -= 4, out += 8) counters = ctr_wide(key, counters, 1, out, 0xff, op);
    if (blocks) ctr_wide(key, counters, 1, out, (__mmask8)((1 << 2 * blocks) - 1), op);
}

TARGET_AVX512 static void ctr_512(const uint8_t *schedule, uint64_t stream, uint64_t index, size_t blocks, word *out,
                                  enum operation op) {
    switch (op) {
        case SET: ctr_512_op(schedule, stream, index, blocks, out, SET); break;
        case ADD: ctr_512_op(schedule, stream, index, blocks, out, ADD); break;
        case SUBTRACT: ctr_512_op(schedule, stream, index, blocks, out, SUBTRACT); break;
        default: ctr_512_op(schedule, stream, index, blocks, out, XOR);
    }
}

static void ctr_blocks(const uint8_t *schedule, uint64_t stream, uint64_t index, size_t blocks, word *out,
                       enum operation op) {
    if (kernels_level >= LEVEL_AVX512)
        ctr_512(schedule, stream, index, blocks, out, op);
    else
        ctr_128(schedule, stream, index, blocks, out, op);
}

static void merge(word *out, uint64_t value, enum operation op) {
    *out = op == SET ? value : op == ADD ? *out + value : op == SUBTRACT ? *out - value : *out ^ value;
}

/* Words [offset, offset + count) of the stream; a block holds two words. */
static void ctr_words(const uint8_t *schedule, uint64_t stream, uint64_t offset, size_t count, word *out,
                      enum operation op) {
    uint64_t pair[2];
    if ((offset & 1) && count) {
        ctr_blocks(schedule, stream, offset >> 1, 1, pair, SET);
        merge(out++, pair[1], op);
        offset++, count--;
    }
    ctr_blocks(schedule, stream, offset >> 1, count / 2, out, op);
    if (count & 1) {
        ctr_blocks(schedule, stream, (offset + count) >> 1, 1, pair, SET);
        merge(out + count - 1, pair[0], op);
    }
}

PyObject *py_expand_key(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (kernels_level < LEVEL_AVX2) return PyErr_Format(PyExc_NotImplementedError, "no AES instructions");
    if (count != 1 || !PyBytes_Check(args[0]) || PyBytes_GET_SIZE(args[0]) != 16) {
        PyErr_SetString(PyExc_ValueError, "expand_key(key): expected 16 bytes");
        return NULL;
    }
    PyObject *schedule = PyBytes_FromStringAndSize(NULL, 16 * (ROUNDS + 1));
    if (schedule != NULL) expand((const uint8_t *)PyBytes_AS_STRING(args[0]), (uint8_t *)PyBytes_AS_STRING(schedule));
    return schedule;
}

PyObject *py_aes_ctr(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (kernels_level < LEVEL_AVX2) return PyErr_Format(PyExc_NotImplementedError, "no AES instructions");
    if (count != 5 || !PyBytes_Check(args[0]) || PyBytes_GET_SIZE(args[0]) != 16 * (ROUNDS + 1)) {
        PyErr_SetString(PyExc_ValueError, "aes_ctr(schedule, stream, offset, out, operation): expected a key schedule");
        return NULL;
    }
    uint64_t stream = PyLong_AsUnsignedLongLong(args[1]), offset = PyLong_AsUnsignedLongLong(args[2]);
    long op = PyLong_AsLong(args[4]);
    if (PyErr_Occurred()) return NULL;
    if (op < SET || op > XOR) return PyErr_Format(PyExc_ValueError, "operation: expected 0 to 3, found %ld", op);
    Py_buffer out;
    if (take_buffer(args[3], &out, "out", -1, 8, 1) < 0) return NULL;
    const uint8_t *schedule = (const uint8_t *)PyBytes_AS_STRING(args[0]);
    PyThreadState *state = unlock(out.len / 8);
    ctr_words(schedule, stream, offset, (size_t)out.len / 8, out.buf, (enum operation)op);
    lock(state);
    PyBuffer_Release(&out);
    Py_RETURN_NONE;
}

#else

PyObject *py_expand_key(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module, (void)args, (void)count;
    PyErr_SetString(PyExc_NotImplementedError, "no AES instructions");
    return NULL;
}

PyObject *py_aes_ctr(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    return py_expand_key(module, args, count);
}

#endif
