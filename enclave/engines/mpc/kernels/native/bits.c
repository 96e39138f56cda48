/* Between words and packed bits: word w of plane p holds bit p of elements 64 w ... 64 w + 63. */
#include "kernels.h"

/* ---- to_planes: 64 x 64 bit transposes, eight words of every plane (a cache line) at a time */

typedef uint64_t line __attribute__((vector_size(64), may_alias));

/* Rows of 64 words from `at`; what is missing after `count` words is zero. */
static void read_block(uint64_t block[512], const word *words, size_t at, size_t count) {
    const size_t left = count - at, take = left < 512 ? left : 512;
    memcpy(block, words + at, 8 * take);
    memset(block + take, 0, 8 * (512 - take));
}

INLINE void planes_swaps(const word *words, size_t count, word *out, size_t width) {
    uint64_t block[512];
    line a[64];
    for (size_t w = 0; w < width; w += 8) {
        read_block(block, words, 64 * w, count);
        for (int i = 0; i < 64; i++)
            a[i] = (line){block[i],       block[64 + i],  block[128 + i], block[192 + i],
                          block[256 + i], block[320 + i], block[384 + i], block[448 + i]};
        uint64_t mask = 0xffffffffu;
        for (int j = 32; j; j >>= 1, mask ^= mask << j)
            for (int base = 0; base < 64; base += 2 * j)
                for (int i = base; i < base + j; i++) {
                    line t = ((a[i] >> j) ^ a[i + j]) & mask;
                    a[i + j] ^= t;
                    a[i] ^= t << j;
                }
        const size_t left = width - w, size = left < 8 ? 8 * left : 64;
        for (int p = 0; p < 64; p++) memcpy(out + (size_t)p * width + w, &a[p], size);
    }
}

static void planes_c(const word *words, size_t count, word *out, size_t width) {
    planes_swaps(words, count, out, width);
}

#if KERNELS_X86
TARGET_AVX2 static void planes_avx2(const word *words, size_t count, word *out, size_t width) {
    planes_swaps(words, count, out, width);
}

/* 64 words -> r[c], whose 128-bit lane l holds the words of planes 16 l + 2 c and 16 l + 2 c + 1. */
TARGET_AVX512 INLINE void transpose_bits(const uint64_t *in, __m512i spread, __m512i r[8]) {
    const __m512i identity = _mm512_set1_epi64((long long)0x8040201008040201ull);
    __m512i t[8], u[8];
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
        /* Bytes of equal rank together, then 8 x 8 bits transposed: byte p is plane p of elements 8 g ... 8 g + 7. */
        __m512i bytes = _mm512_permutexvar_epi8(spread, _mm512_loadu_si512(in + 8 * g));
        t[g] = _mm512_gf2p8affine_epi64_epi8(identity, bytes, 0);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        u[i] = _mm512_unpacklo_epi8(t[2 * i], t[2 * i + 1]);
        u[4 + i] = _mm512_unpackhi_epi8(t[2 * i], t[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++)
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            t[4 * h + i] = _mm512_unpacklo_epi16(u[4 * h + 2 * i], u[4 * h + 2 * i + 1]);
            t[4 * h + 2 + i] = _mm512_unpackhi_epi16(u[4 * h + 2 * i], u[4 * h + 2 * i + 1]);
        }
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
        r[2 * q] = _mm512_unpacklo_epi32(t[2 * q], t[2 * q + 1]);
        r[2 * q + 1] = _mm512_unpackhi_epi32(t[2 * q], t[2 * q + 1]);
    }
}

TARGET_AVX512 static void planes_avx512(const word *words, size_t count, word *out, size_t width) {
    uint64_t block[512];
    uint8_t order[64];
    for (int e = 0; e < 8; e++)
        for (int j = 0; j < 8; j++) order[8 * j + 7 - e] = (uint8_t)(8 * e + j);
    const __m512i spread = _mm512_loadu_si512(order);
    __m512i r[8][8];
    for (size_t w = 0; w < width; w += 8) {
        const size_t left = width - w;
        const __mmask8 mask = left < 8 ? (__mmask8)((1 << left) - 1) : 0xff;
        read_block(block, words, 64 * w, count);
        for (int k = 0; k < 8; k++) transpose_bits(block + 64 * k, spread, r[k]);
        for (int c = 0; c < 8; c++) {
            __m512i column[8];
#pragma GCC unroll 8
            for (int k = 0; k < 8; k++) column[k] = r[k][c];
            transpose_words(column);
#pragma GCC unroll 8
            for (int k = 0; k < 8; k++) {
                const size_t plane = (size_t)(16 * (k >> 1) + 2 * c + (k & 1));
                _mm512_mask_storeu_epi64(out + plane * width + w, mask, column[k]);
            }
        }
    }
}
#endif

static void to_planes(const word *words, size_t count, word *out, size_t width) {
#if KERNELS_X86
    if (kernels_level >= LEVEL_AVX512) {
        planes_avx512(words, count, out, width);
        return;
    }
    if (kernels_level >= LEVEL_AVX2) {
        planes_avx2(words, count, out, width);
        return;
    }
#endif
    planes_c(words, count, out, width);
}

/* ---- one row of bits to bytes of 0 and 1, and back */

static uint64_t spread_byte(uint64_t byte) {
    uint64_t bits = (byte * 0x0101010101010101u) & 0x8040201008040201u;
    return ((bits + 0x7f7f7f7f7f7f7f7fu) >> 7) & 0x0101010101010101u;
}

static void expand_c(const word *plane, uint8_t *out, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        const uint64_t bytes = spread_byte((plane[i / 64] >> (i % 64)) & 0xff);
        memcpy(out + i, &bytes, n - i < 8 ? n - i : 8);
    }
}

static void pack_bytes_c(const uint8_t *bits, word *out, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        uint64_t bytes = 0;
        memcpy(&bytes, bits + i, n - i < 8 ? n - i : 8);
        const uint64_t packed = ((bytes & 0x0101010101010101u) * 0x0102040810204080u) >> 56;
        out[i / 64] = (i % 64 ? out[i / 64] : 0) | packed << (i % 64);
    }
}

static void pack_words_c(const word *bits, word *out, size_t n) {
    for (size_t i = 0; i < n; i += 64) {
        uint64_t packed = 0;
        for (size_t k = 0; k < 64 && i + k < n; k++) packed |= (bits[i + k] & 1) << k;
        out[i / 64] = packed;
    }
}

#if KERNELS_X86
TARGET_AVX512 static void expand_avx512(const word *plane, uint8_t *out, size_t n) {
    for (; n >= 64; n -= 64, out += 64) _mm512_storeu_si512(out, _mm512_maskz_set1_epi8(*plane++, 1));
    if (n) _mm512_mask_storeu_epi8(out, _bzhi_u64(~0ull, (unsigned)n), _mm512_maskz_set1_epi8(*plane, 1));
}

TARGET_AVX512 static void pack_bytes_avx512(const uint8_t *bits, word *out, size_t n) {
    const __m512i one = _mm512_set1_epi8(1);
    for (; n >= 64; n -= 64, bits += 64) *out++ = _mm512_test_epi8_mask(_mm512_loadu_si512(bits), one);
    if (n) *out = _mm512_test_epi8_mask(_mm512_maskz_loadu_epi8(_bzhi_u64(~0ull, (unsigned)n), bits), one);
}

TARGET_AVX512 static void pack_words_avx512(const word *bits, word *out, size_t n) {
    const __m512i one = _mm512_set1_epi64(1);
    for (; n >= 64; n -= 64, bits += 64) {
        uint64_t packed = 0;
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++)
            packed |= (uint64_t)_mm512_test_epi64_mask(_mm512_loadu_si512(bits + 8 * k), one) << 8 * k;
        *out++ = packed;
    }
    pack_words_c(bits, out, n);
}
#endif

#if KERNELS_X86
TARGET_AVX2 static void expand_avx2(const word *plane, uint8_t *out, size_t n) {
    const __m256i order = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3,
                                           3, 3, 3, 3, 3);
    const __m256i bits = _mm256_set1_epi64x((long long)0x8040201008040201ull), one = _mm256_set1_epi8(1);
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m256i four = _mm256_set1_epi32((int)(plane[i / 64] >> (i % 64)));
        const __m256i set = _mm256_and_si256(_mm256_shuffle_epi8(four, order), bits);
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_and_si256(_mm256_cmpeq_epi8(set, bits), one));
    }
    for (; i < n; i++) out[i] = plane[i / 64] >> (i % 64) & 1;
}

TARGET_AVX2 static void pack_bytes_avx2(const uint8_t *bits, word *out, size_t n) {
    for (; n >= 64; n -= 64, bits += 64) {
        const __m256i low = _mm256_loadu_si256((const __m256i *)bits);
        const __m256i high = _mm256_loadu_si256((const __m256i *)(bits + 32));
        *out++ = (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(low, 7)) |
                 (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(high, 7)) << 32;
    }
    pack_bytes_c(bits, out, n);
}
#endif

static void expand(const word *plane, uint8_t *out, size_t n) {
#if KERNELS_X86
    if (kernels_level == LEVEL_AVX2) {
        expand_avx2(plane, out, n);
        return;
    }
    if (kernels_level >= LEVEL_AVX512) {
        expand_avx512(plane, out, n);
        return;
    }
#endif
    expand_c(plane, out, n);
}

static void pack(const void *bits, Py_ssize_t itemsize, word *out, size_t n) {
#if KERNELS_X86
    if (kernels_level == LEVEL_AVX2 && itemsize == 1) {
        pack_bytes_avx2(bits, out, n);
        return;
    }
    if (kernels_level >= LEVEL_AVX512) {
        if (itemsize == 1)
            pack_bytes_avx512(bits, out, n);
        else
            pack_words_avx512(bits, out, n);
        return;
    }
#endif
    if (itemsize == 1)
        pack_bytes_c(bits, out, n);
    else
        pack_words_c(bits, out, n);
}

/* ---- Python */

static int refuse(Py_buffer *in, Py_buffer *out, const char *message) {
    PyErr_SetString(PyExc_ValueError, message);
    PyBuffer_Release(in);
    PyBuffer_Release(out);
    return -1;
}

static int take_two(PyObject *const *args, Py_ssize_t count, Py_buffer *in, int in_ndim, int in_size, Py_buffer *out,
                    int out_size) {
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "expected an input and an output");
        return -1;
    }
    if (take_buffer(args[0], in, "input", in_ndim, in_size, 0) < 0) return -1;
    if (take_buffer(args[1], out, "output", -1, out_size, 1) < 0) {
        PyBuffer_Release(in);
        return -1;
    }
    return 0;
}

static PyObject *finish(Py_buffer *in, Py_buffer *out) {
    PyBuffer_Release(in);
    PyBuffer_Release(out);
    Py_RETURN_NONE;
}

/* to_planes(words (n,), out (64, W)) */
PyObject *py_to_planes(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    Py_buffer in, out;
    if (take_two(args, count, &in, -1, 8, &out, 8) < 0) return NULL;
    const size_t n = (size_t)in.len / 8, width = (n + 63) / 64;
    if ((size_t)out.len != 512 * width) {
        refuse(&in, &out, "to_planes: expected an output of 64 planes");
        return NULL;
    }
    PyThreadState *state = unlock(in.len / 8);
    to_planes(in.buf, n, out.buf, width);
    lock(state);
    return finish(&in, &out);
}

/* from_planes(planes (k, W), out (k, n)) */
PyObject *py_from_planes(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    Py_buffer in, out;
    if (take_two(args, count, &in, 2, 8, &out, 1) < 0) return NULL;
    const Py_ssize_t rows = in.shape[0], n = out.ndim == 2 ? out.shape[1] : -1;
    if (n < 0 || out.shape[0] != rows || in.shape[1] < (n + 63) / 64 || (in.strides[1] != 8 && in.shape[1] > 1)) {
        refuse(&in, &out, "from_planes: expected rows of packed bits, and an output of as many rows");
        return NULL;
    }
    PyThreadState *state = unlock(rows * n / 8);
    for (Py_ssize_t row = 0; row < rows; row++)
        expand((const word *)((const char *)in.buf + row * in.strides[0]), (uint8_t *)out.buf + row * n, (size_t)n);
    lock(state);
    return finish(&in, &out);
}

/* pack_bits(bits (n,) of 1 or 8 bytes, out (W,)) */
PyObject *py_pack_bits(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    Py_buffer in, out;
    if (count != 2) return PyErr_Format(PyExc_TypeError, "expected an input and an output");
    if (PyObject_GetBuffer(args[0], &in, PyBUF_C_CONTIGUOUS) < 0) return NULL;
    if (take_buffer(args[1], &out, "output", -1, 8, 1) < 0) {
        PyBuffer_Release(&in);
        return NULL;
    }
    const Py_ssize_t n = in.len / (in.itemsize ? in.itemsize : 1);
    if ((in.itemsize != 1 && in.itemsize != 8) || out.len != 8 * ((n + 63) / 64)) {
        refuse(&in, &out, "pack_bits: expected bytes or words, and a word for each 64 of them");
        return NULL;
    }
    PyThreadState *state = unlock(n);
    pack(in.buf, in.itemsize, out.buf, (size_t)n);
    lock(state);
    return finish(&in, &out);
}
