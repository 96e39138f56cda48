/* Products of matrices of words modulo 2^64.
 *
 * Both operands are packed, so that strides cost nothing in the inner loop: x in panels of MR rows, y in panels of one
 * or more vectors of columns. K is cut so that a panel of y stays in the second-level cache. Constant time: integer
 * multiplications take the same time for all operands on every processor that has these instructions.
 */
#include "kernels.h"

#include <stdlib.h>

INLINE uint64_t element(const struct matrix *m, Py_ssize_t row, Py_ssize_t column) {
    return *(const word *)(m->at + row * m->row_step + column * m->column_step);
}

/* ---- one row or one column: nothing is used twice, so nothing is packed */

INLINE void dot_rows(const struct product *p, const uint64_t *vector) {
    const struct matrix *x = &p->x;
    for (Py_ssize_t i = 0; i < x->rows; i++) {
        const word *row = (const word *)(x->at + i * x->row_step);
        uint64_t sum = 0;
        if (x->column_step == 8)
            for (Py_ssize_t k = 0; k < x->columns; k++) sum += row[k] * vector[k];
        else
            for (Py_ssize_t k = 0; k < x->columns; k++) sum += element(x, i, k) * vector[k];
        word *to = (word *)(p->out + i * p->out_row);
        *to = (p->accumulate ? *to : 0) + sum;
    }
}

/* out = sum of rows of y, each times a word of `vector`; `sums` has a word for every column. */
INLINE void add_rows(const struct matrix *y, const uint64_t *vector, uint64_t *restrict sums) {
    memset(sums, 0, 8 * (size_t)y->columns);
    Py_ssize_t k = 0;
    for (; k + 4 <= y->rows; k += 4) {
        const word *a = (const word *)(y->at + k * y->row_step), *b = (const word *)((const char *)a + y->row_step);
        const word *c = (const word *)((const char *)b + y->row_step), *d = (const word *)((const char *)c + y->row_step);
        const uint64_t *v = vector + k;
        for (Py_ssize_t j = 0; j < y->columns; j++) sums[j] += a[j] * v[0] + b[j] * v[1] + c[j] * v[2] + d[j] * v[3];
    }
    for (; k < y->rows; k++) {
        const word *row = (const word *)(y->at + k * y->row_step);
        for (Py_ssize_t j = 0; j < y->columns; j++) sums[j] += row[j] * vector[k];
    }
}

/* ---- blocks */

#define MR 8
#define KC 256
#define MC 128

/* x[i0 : i0 + rows, k0 : k0 + depth] -> panels of MR rows, MR words for every k; missing rows are zero. */
static void pack_x(const struct matrix *x, Py_ssize_t i0, Py_ssize_t rows, Py_ssize_t k0, Py_ssize_t depth, uint64_t *to) {
    for (Py_ssize_t i = 0; i < rows; i += MR, to += MR * depth) {
        for (Py_ssize_t r = 0; r < MR; r++) {
            if (i + r >= rows) {
                for (Py_ssize_t k = 0; k < depth; k++) to[k * MR + r] = 0;
                continue;
            }
            const char *from = x->at + (i0 + i + r) * x->row_step + k0 * x->column_step;
            for (Py_ssize_t k = 0; k < depth; k++, from += x->column_step) to[k * MR + r] = *(const word *)from;
        }
    }
}

/* y[k0 : k0 + depth, :] -> panels of `wide` columns, `wide` words for every k; missing columns are zero. */
static void pack_y(const struct matrix *y, Py_ssize_t k0, Py_ssize_t depth, Py_ssize_t wide, uint64_t *to) {
    for (Py_ssize_t j = 0; j < y->columns; j += wide, to += wide * depth) {
        const Py_ssize_t some = y->columns - j < wide ? y->columns - j : wide;
        if (some < wide) memset(to, 0, 8 * (size_t)(wide * depth));
        if (y->column_step == 8) {
            for (Py_ssize_t k = 0; k < depth; k++)
                memcpy(to + k * wide, y->at + (k0 + k) * y->row_step + 8 * j, 8 * (size_t)some);
        } else {
            for (Py_ssize_t c = 0; c < some; c++) {
                const char *from = y->at + k0 * y->row_step + (j + c) * y->column_step;
                for (Py_ssize_t k = 0; k < depth; k++, from += y->row_step) to[k * wide + c] = *(const word *)from;
            }
        }
    }
}

/* Adds or puts a tile of rows x wide words. */
static void write_tile(const struct product *p, const uint64_t *tile, Py_ssize_t i, Py_ssize_t j, Py_ssize_t wide, int add) {
    const Py_ssize_t rows = p->x.rows - i < MR ? p->x.rows - i : MR;
    const Py_ssize_t columns = p->y.columns - j < wide ? p->y.columns - j : wide;
    for (Py_ssize_t r = 0; r < rows; r++, tile += wide) {
        char *to = p->out + (i + r) * p->out_row + j * p->out_column;
        for (Py_ssize_t c = 0; c < columns; c++, to += p->out_column)
            *(word *)to = (add ? *(word *)to : 0) + tile[c];
    }
}

typedef void (*tile_function)(const uint64_t *x, const uint64_t *y, Py_ssize_t depth, uint64_t *tile);

/* Returns -1 when there is no memory. */
static int blocks(const struct product *p, Py_ssize_t wide, tile_function tile_of) {
    const Py_ssize_t panels = (p->y.columns + wide - 1) / wide;
    uint64_t *memory = malloc(8 * (size_t)(KC * (MC + panels * wide)) + 64);
    if (memory == NULL) return -1;
    uint64_t *y = (uint64_t *)(((uintptr_t)memory + 63) & ~(uintptr_t)63), *x = y + KC * panels * wide;
    for (Py_ssize_t k = 0; k < p->x.columns; k += KC) {
        const Py_ssize_t depth = p->x.columns - k < KC ? p->x.columns - k : KC;
        pack_y(&p->y, k, depth, wide, y);
        for (Py_ssize_t i = 0; i < p->x.rows; i += MC) {
            const Py_ssize_t rows = p->x.rows - i < MC ? p->x.rows - i : MC;
            pack_x(&p->x, i, rows, k, depth, x);
            for (Py_ssize_t j = 0; j < panels; j++)
                for (Py_ssize_t r = 0; r < rows; r += MR) {
                    uint64_t tile[MR * 8] __attribute__((aligned(64)));
                    tile_of(x + r * depth, y + j * wide * depth, depth, tile);
                    write_tile(p, tile, i + r, j * wide, wide, p->accumulate || k);
                }
        }
    }
    if (p->x.columns == 0 && !p->accumulate) { /* an empty sum */
        memset(y, 0, 8 * (size_t)(KC * panels * wide));
        for (Py_ssize_t i = 0; i < p->x.rows; i += MR)
            for (Py_ssize_t j = 0; j < panels; j++) write_tile(p, y, i, j * wide, wide, 0);
    }
    free(memory);
    return 0;
}

/* ---- the inner loops: an MR x wide tile in registers */

#define WIDE_C 4

static void tile_c(const uint64_t *x, const uint64_t *y, Py_ssize_t depth, uint64_t *tile) {
    uint64_t sum[MR][WIDE_C] = {{0}};
    for (Py_ssize_t k = 0; k < depth; k++, x += MR, y += WIDE_C)
        for (int r = 0; r < MR; r++)
            for (int c = 0; c < WIDE_C; c++) sum[r][c] += x[r] * y[c];
    memcpy(tile, sum, sizeof sum);
}

#if KERNELS_X86

#define WIDE_AVX512 8
#define LIMB 52

/* With y = y0 + 2^52 y1: x y = lo(x0 y0) + 2^52 (hi(x0 y0) + lo(x0 y1) + lo(x1 y0)) modulo 2^64, where lo and hi are
 * the halves of a 104-bit product, which the fused multiply-add takes of the lowest 52 bits of each operand. Four of
 * them for eight words; the 64-bit vector multiplication (vpmullq) takes three and an addition, and far more time on
 * some processors. */
TARGET_AVX512 static void tile_avx512(const uint64_t *x, const uint64_t *y, Py_ssize_t depth, uint64_t *tile) {
    __m512i low[MR], high[MR];
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) low[r] = high[r] = _mm512_setzero_si512();
    for (Py_ssize_t k = 0; k < depth; k++, x += MR, y += WIDE_AVX512) {
        const __m512i y0 = _mm512_load_si512(y), y1 = _mm512_srli_epi64(y0, LIMB);
        uint64_t tops[MR] __attribute__((aligned(64)));
        _mm512_store_si512(tops, _mm512_srli_epi64(_mm512_load_si512(x), LIMB));
#pragma GCC unroll 8
        for (int r = 0; r < MR; r++) {
            const __m512i x0 = _mm512_set1_epi64((long long)x[r]), x1 = _mm512_set1_epi64((long long)tops[r]);
            low[r] = _mm512_madd52lo_epu64(low[r], x0, y0);
            high[r] = _mm512_madd52hi_epu64(high[r], x0, y0);
            high[r] = _mm512_madd52lo_epu64(high[r], x0, y1);
            high[r] = _mm512_madd52lo_epu64(high[r], x1, y0);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++)
        _mm512_store_si512(tile + WIDE_AVX512 * r, _mm512_add_epi64(low[r], _mm512_slli_epi64(high[r], LIMB)));
}

#define WIDE_AVX2 4

/* x y = x0 y0 + 2^32 (x0 y1 + x1 y0): three 32 x 32 bit products of four lanes. */
TARGET_AVX2 static void tile_avx2(const uint64_t *x, const uint64_t *y, Py_ssize_t depth, uint64_t *tile) {
#pragma GCC unroll 2
    for (int half = 0; half < MR; half += 4, x += 4) {
        __m256i low[4], cross[4];
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) low[r] = cross[r] = _mm256_setzero_si256();
        const uint64_t *a = x, *b = y;
        for (Py_ssize_t k = 0; k < depth; k++, a += MR, b += WIDE_AVX2) {
            const __m256i c = _mm256_load_si256((const __m256i *)b), swapped = _mm256_shuffle_epi32(c, 0xb1);
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) {
                const __m256i one = _mm256_set1_epi64x((long long)a[r]);
                low[r] = _mm256_add_epi64(low[r], _mm256_mul_epu32(one, c));
                cross[r] = _mm256_add_epi32(cross[r], _mm256_mullo_epi32(one, swapped));
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
            const __m256i both = _mm256_add_epi32(cross[r], _mm256_srli_epi64(cross[r], 32));
            _mm256_storeu_si256((__m256i *)(tile + WIDE_AVX2 * (half + r)),
                                _mm256_add_epi64(low[r], _mm256_slli_epi64(both, 32)));
        }
    }
}

/* x v by the same four multiply-adds; v1 is v0 shifted right by LIMB. */
#define MULTIPLY_ADD(low, high, x0, v0, v1) \
    do { \
        const __m512i x1 = _mm512_srli_epi64(x0, LIMB); \
        low = _mm512_madd52lo_epu64(low, x0, v0); \
        high = _mm512_madd52hi_epu64(high, x0, v0); \
        high = _mm512_madd52lo_epu64(high, x0, v1); \
        high = _mm512_madd52lo_epu64(high, x1, v0); \
    } while (0)

TARGET_AVX512 static void dot_rows_avx512(const struct product *p, const uint64_t *v) {
    const struct matrix *x = &p->x;
    if (x->column_step != 8) {
        dot_rows(p, v);
        return;
    }
    for (Py_ssize_t i = 0; i < x->rows; i++) {
        const char *row = x->at + i * x->row_step;
        __m512i low[4], high[4];
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++) low[u] = high[u] = _mm512_setzero_si512();
        for (Py_ssize_t k = 0; k < x->columns; k += 32)
#pragma GCC unroll 4
            for (int u = 0; u < 4; u++) {
                const Py_ssize_t left = x->columns - k - 8 * u;
                const __mmask8 mask = left >= 8 ? 0xff : left > 0 ? (__mmask8)((1 << left) - 1) : 0;
                const __m512i x0 = _mm512_maskz_loadu_epi64(mask, row + 8 * k + 64 * u);
                const __m512i v0 = _mm512_maskz_loadu_epi64(mask, v + k + 8 * u);
                MULTIPLY_ADD(low[u], high[u], x0, v0, _mm512_srli_epi64(v0, LIMB));
            }
        __m512i l = _mm512_add_epi64(_mm512_add_epi64(low[0], low[1]), _mm512_add_epi64(low[2], low[3]));
        __m512i h = _mm512_add_epi64(_mm512_add_epi64(high[0], high[1]), _mm512_add_epi64(high[2], high[3]));
        word *to = (word *)(p->out + i * p->out_row);
        *to = (p->accumulate ? *to : 0) +
              (uint64_t)_mm512_reduce_add_epi64(_mm512_add_epi64(l, _mm512_slli_epi64(h, LIMB)));
    }
}

TARGET_AVX512 static void add_rows_avx512(const struct matrix *y, const uint64_t *v, uint64_t *restrict sums) {
    for (Py_ssize_t j = 0; j < y->columns; j += 32) {
        __m512i low[4], high[4];
        __mmask8 mask[4];
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++) {
            const Py_ssize_t left = y->columns - j - 8 * u;
            low[u] = high[u] = _mm512_setzero_si512();
            mask[u] = left >= 8 ? 0xff : left > 0 ? (__mmask8)((1 << left) - 1) : 0;
        }
        const char *row = y->at + 8 * j;
        for (Py_ssize_t k = 0; k < y->rows; k++, row += y->row_step) {
            const __m512i v0 = _mm512_set1_epi64((long long)v[k]), v1 = _mm512_srli_epi64(v0, LIMB);
#pragma GCC unroll 4
            for (int u = 0; u < 4; u++) {
                const __m512i y0 = _mm512_maskz_loadu_epi64(mask[u], row + 64 * u);
                MULTIPLY_ADD(low[u], high[u], y0, v0, v1);
            }
        }
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++)
            _mm512_mask_storeu_epi64(sums + j + 8 * u, mask[u],
                                     _mm512_add_epi64(low[u], _mm512_slli_epi64(high[u], LIMB)));
    }
}

TARGET_AVX2 static void dot_rows_avx2(const struct product *p, const uint64_t *v) { dot_rows(p, v); }
TARGET_AVX2 static void add_rows_avx2(const struct matrix *y, const uint64_t *v, uint64_t *s) { add_rows(y, v, s); }
#endif

static void dot_rows_c(const struct product *p, const uint64_t *v) { dot_rows(p, v); }
static void add_rows_c(const struct matrix *y, const uint64_t *v, uint64_t *s) { add_rows(y, v, s); }

#if KERNELS_X86
#define PICK(function) \
    (kernels_level >= LEVEL_AVX512 ? function##_avx512 : kernels_level >= LEVEL_AVX2 ? function##_avx2 : function##_c)
#else
#define PICK(function) function##_c
#endif

static struct product transposed(const struct product *p) {
    struct product t = *p;
    t.x = (struct matrix){p->y.at, p->y.columns, p->y.rows, p->y.column_step, p->y.row_step};
    t.y = (struct matrix){p->x.at, p->x.columns, p->x.rows, p->x.column_step, p->x.row_step};
    t.out_row = p->out_column, t.out_column = p->out_row;
    return t;
}

/* One column: x's rows are contiguous, or its columns are. */
static int by_vector(const struct product *p) {
    const Py_ssize_t n = p->x.rows, depth = p->x.columns;
    uint64_t *memory = malloc(8 * (size_t)(depth + n) + 8);
    if (memory == NULL) return -1;
    uint64_t *sums = memory + depth;
    for (Py_ssize_t k = 0; k < depth; k++) memory[k] = element(&p->y, k, 0);
    if (p->x.row_step == 8 && p->x.column_step != 8 && n > 1) {
        const struct matrix turned = transposed(p).y;
        PICK(add_rows)(&turned, memory, sums);
        for (Py_ssize_t i = 0; i < n; i++) {
            word *to = (word *)(p->out + i * p->out_row);
            *to = (p->accumulate ? *to : 0) + sums[i];
        }
    } else {
        PICK(dot_rows)(p, memory);
    }
    free(memory);
    return 0;
}

static int multiply(const struct product *p) {
    if (p->y.columns == 1) return by_vector(p);
    if (p->x.rows == 1) {
        const struct product t = transposed(p);
        return by_vector(&t);
    }
#if KERNELS_X86
    if (kernels_level >= LEVEL_AMX && p->x.rows >= 4 && p->y.columns >= 4 && p->x.columns >= 16 && amx_ready())
        return amx_multiply(p);
    if (kernels_level >= LEVEL_AVX512) return blocks(p, WIDE_AVX512, tile_avx512);
    if (kernels_level >= LEVEL_AVX2) return blocks(p, WIDE_AVX2, tile_avx2);
#endif
    return blocks(p, WIDE_C, tile_c);
}

static struct matrix matrix_of(const Py_buffer *b) {
    return (struct matrix){b->buf, b->shape[0], b->shape[1], b->strides[0], b->strides[1]};
}

/* matmul(x (n, k), y (k, m), out (n, m), accumulate) */
PyObject *py_matmul(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    Py_buffer x, y, out;
    if (count != 4) return PyErr_Format(PyExc_TypeError, "matmul(x, y, out, accumulate): expected four arguments");
    const int accumulate = PyObject_IsTrue(args[3]);
    if (accumulate < 0 || take_buffer(args[0], &x, "x", 2, 8, 0) < 0) return NULL;
    if (take_buffer(args[1], &y, "y", 2, 8, 0) < 0) {
        PyBuffer_Release(&x);
        return NULL;
    }
    if (take_buffer(args[2], &out, "out", 2, 8, 1) < 0) {
        PyBuffer_Release(&x);
        PyBuffer_Release(&y);
        return NULL;
    }
    int failed = 0;
    if (x.shape[1] != y.shape[0] || out.shape[0] != x.shape[0] || out.shape[1] != y.shape[1]) {
        PyErr_Format(PyExc_ValueError, "matmul: expected (n, k), (k, m) and (n, m), found (%zd, %zd), (%zd, %zd) and (%zd, %zd)",
                     x.shape[0], x.shape[1], y.shape[0], y.shape[1], out.shape[0], out.shape[1]);
        failed = 1;
    } else if (out.len) {
        const struct product p = {matrix_of(&x), matrix_of(&y), out.buf, out.strides[0], out.strides[1], accumulate};
        PyThreadState *state = unlock(x.shape[0] * x.shape[1] * y.shape[1] / 4);
        failed = multiply(&p) < 0;
        lock(state);
        if (failed) PyErr_NoMemory();
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&y);
    PyBuffer_Release(&out);
    if (failed) return NULL;
    Py_RETURN_NONE;
}
