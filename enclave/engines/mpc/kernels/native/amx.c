/* Products of matrices of words modulo 2^64 by the matrix unit for bytes (AMX).
 *
 * A word is eight bytes, x = sum of 2^(8 i) x_i, so x y = sum over s < 8 of 2^(8 s) sum over i of x_i y_(s - i): 36
 * products of matrices of bytes, each summed in 32 bits. Weights from 2^32 on need their sums modulo 2^32 alone; the
 * others are exact, since a sum for s <= 3 has at most 4 DEPTH terms below 2^16.
 */
#include "kernels.h"

#if KERNELS_AMX

#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TILE 1024  /* bytes: 16 rows of 64 */
#ifndef DEPTH
#define DEPTH 512 /* words of K at a time: at most 2^14, for exact sums */
#endif
#define ROWS 64    /* rows of x packed at a time */
#define REQUEST_PERMISSION 0x1023
#define TILE_DATA 18

int amx_ready(void) {
    static int known; /* 0: not asked yet. Asked under the interpreter's lock or not, the answer is the same. */
    if (known == 0) known = syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0 ? 1 : -1;
    return known > 0;
}

struct __attribute__((packed)) tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* w[i] word k becomes w[k] word i. */
TARGET_AMX INLINE void transpose(__m512i w[8]) {
#define PAIR(i) \
    const __m512i lo##i = _mm512_unpacklo_epi64(w[2 * i], w[2 * i + 1]), \
                  hi##i = _mm512_unpackhi_epi64(w[2 * i], w[2 * i + 1])
    PAIR(0);
    PAIR(1);
    PAIR(2);
    PAIR(3);
#undef PAIR
#define QUARTERS(h, p, q, r, s) \
    do { \
        const __m512i a = _mm512_shuffle_i64x2(p, q, 0x88), b = _mm512_shuffle_i64x2(p, q, 0xdd); \
        const __m512i c = _mm512_shuffle_i64x2(r, s, 0x88), d = _mm512_shuffle_i64x2(r, s, 0xdd); \
        w[h] = _mm512_shuffle_i64x2(a, c, 0x88); \
        w[4 + h] = _mm512_shuffle_i64x2(a, c, 0xdd); \
        w[2 + h] = _mm512_shuffle_i64x2(b, d, 0x88); \
        w[6 + h] = _mm512_shuffle_i64x2(b, d, 0xdd); \
    } while (0)
    QUARTERS(0, lo0, lo1, lo2, lo3);
    QUARTERS(1, hi0, hi1, hi2, hi3);
#undef QUARTERS
}

/* 64 words, in w, to eight rows of 64 bytes: row j holds byte j of every word. */
TARGET_AMX INLINE void split(__m512i w[8], __m512i spread) {
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) w[g] = _mm512_permutexvar_epi8(spread, w[g]);
    transpose(w);
}

TARGET_AMX static __m512i spread_order(void) {
    uint8_t order[64];
    for (int e = 0; e < 8; e++)
        for (int j = 0; j < 8; j++) order[8 * j + e] = (uint8_t)(8 * e + j);
    return _mm512_loadu_si512(order);
}

/* rows x columns words of m, from (i, j), to `to` with `columns` words a row; what lies outside of m is zero. */
TARGET_AMX static void copy_words(const struct matrix *m, Py_ssize_t i, Py_ssize_t j, int rows, int columns,
                                  uint64_t *to) {
    const char *from = m->at + i * m->row_step + j * m->column_step;
    const int whole = i + rows <= m->rows && j + columns <= m->columns;
    if (whole && m->row_step == 8) { /* transposed: eight by eight, by vectors */
        for (int r = 0; r < rows; r += 8)
            for (int c = 0; c < columns; c += 8) {
                __m512i w[8];
#pragma GCC unroll 8
                for (int k = 0; k < 8; k++) w[k] = _mm512_loadu_si512(from + 8 * r + (c + k) * m->column_step);
                transpose(w);
#pragma GCC unroll 8
                for (int k = 0; k < 8; k++) _mm512_storeu_si512(to + (r + k) * columns + c, w[k]);
            }
        return;
    }
    const int some = m->rows - i < rows ? (int)(m->rows - i) : rows;
    const int others = m->columns - j < columns ? (int)(m->columns - j) : columns;
    if (!whole) memset(to, 0, 8 * (size_t)(rows * columns));
    if (m->row_step == 8) {
        for (int c = 0; c < others; c++)
            for (int r = 0; r < some; r++) to[r * columns + c] = *(const word *)(from + 8 * r + c * m->column_step);
        return;
    }
    for (int r = 0; r < some; r++)
        for (int c = 0; c < others; c++)
            to[r * columns + c] = *(const word *)(from + r * m->row_step + c * m->column_step);
}

/* Rows [i, i + 16) of x, columns from k on: for every 64 columns eight tiles, one for each byte. */
TARGET_AMX static void pack_x(const struct matrix *x, Py_ssize_t i, Py_ssize_t k, Py_ssize_t tiles, uint8_t *to) {
    const __m512i spread = spread_order();
    uint64_t copy[16 * 64];
    for (Py_ssize_t t = 0; t < tiles; t++, k += 64, to += 8 * TILE) {
        const int whole = x->column_step == 8 && i + 16 <= x->rows && k + 64 <= x->columns;
        if (!whole) copy_words(x, i, k, 16, 64, copy);
        for (int r = 0; r < 16; r++) {
            const char *from = whole ? x->at + (i + r) * x->row_step + 8 * k : (const char *)(copy + 64 * r);
            __m512i w[8];
#pragma GCC unroll 8
            for (int g = 0; g < 8; g++) w[g] = _mm512_loadu_si512(from + 64 * g);
            split(w, spread);
#pragma GCC unroll 8
            for (int b = 0; b < 8; b++) _mm512_store_si512(to + b * TILE + 64 * r, w[b]);
        }
    }
}

/* Columns [j, j + 16) of y, rows from k on: for every 64 rows eight tiles; row q of a tile holds rows 4 q ... 4 q + 3
 * of y, the four bytes of a column side by side. */
TARGET_AMX static void pack_y(const struct matrix *y, Py_ssize_t k, Py_ssize_t j, Py_ssize_t tiles, uint8_t *to) {
    const __m512i spread = spread_order();
    uint8_t order[64];
    for (int b = 0; b < 4; b++)
        for (int c = 0; c < 16; c++) order[4 * c + b] = (uint8_t)(16 * b + c);
    const __m512i interleave = _mm512_loadu_si512(order);
    uint64_t copy[64 * 16];
    for (Py_ssize_t t = 0; t < tiles; t++, k += 64, to += 8 * TILE) {
        const int whole = y->column_step == 8 && j + 16 <= y->columns && k + 64 <= y->rows;
        if (!whole) copy_words(y, k, j, 64, 16, copy);
        for (int q = 0; q < 16; q++) {
            __m512i w[8];
#pragma GCC unroll 4
            for (int b = 0; b < 4; b++) {
                const char *from = whole ? y->at + (k + 4 * q + b) * y->row_step + 8 * j
                                         : (const char *)(copy + 16 * (4 * q + b));
                w[2 * b] = _mm512_loadu_si512(from);
                w[2 * b + 1] = _mm512_loadu_si512(from + 64);
            }
            split(w, spread);
#pragma GCC unroll 8
            for (int b = 0; b < 8; b++)
                _mm512_store_si512(to + b * TILE + 64 * q, _mm512_permutexvar_epi8(interleave, w[b]));
        }
    }
}

/* Sums for every s of 16 x 16 words, for two panels of x and two of y: sums[4 s + 2 (panel of x) + (panel of y)]. */
TARGET_AMX static void multiply_panels(const uint8_t *x, const uint8_t *y, Py_ssize_t tiles, int two_x, int two_y,
                                       uint32_t sums[32][256]) {
    const uint8_t *x2 = two_x ? x + tiles * 8 * TILE : x, *y2 = two_y ? y + tiles * 8 * TILE : y;
    for (int s = 0; s < 8; s++) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (Py_ssize_t t = 0; t < tiles; t++)
            for (int i = 0; i <= s; i++) {
                const Py_ssize_t a = (8 * t + i) * TILE, b = (8 * t + s - i) * TILE;
                _tile_loadd(4, x + a, 64);
                _tile_loadd(6, y + b, 64);
                _tile_dpbuud(0, 4, 6);
                if (two_y) {
                    _tile_loadd(7, y2 + b, 64);
                    _tile_dpbuud(1, 4, 7);
                }
                if (two_x) {
                    _tile_loadd(5, x2 + a, 64);
                    _tile_dpbuud(2, 5, 6);
                    if (two_y) _tile_dpbuud(3, 5, 7);
                }
            }
        _tile_stored(0, sums[4 * s], 64);
        _tile_stored(1, sums[4 * s + 1], 64);
        _tile_stored(2, sums[4 * s + 2], 64);
        _tile_stored(3, sums[4 * s + 3], 64);
    }
}

/* The weighted sums of row r of one 16 x 16 tile, as 16 words. */
TARGET_AMX INLINE void weigh(uint32_t sums[32][256], int tile, int r, __m512i words[2]) {
#define SUM(s) _mm512_load_si512(&sums[4 * (s) + tile][16 * r])
    __m512i high = _mm512_add_epi32(SUM(4), _mm512_slli_epi32(SUM(5), 8));
    high = _mm512_add_epi32(high, _mm512_add_epi32(_mm512_slli_epi32(SUM(6), 16), _mm512_slli_epi32(SUM(7), 24)));
#undef SUM
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
#define HALF(s) _mm512_cvtepu32_epi64(_mm256_load_si256((const __m256i *)&sums[4 * (s) + tile][16 * r + 8 * h]))
        const __m256i top = h ? _mm512_extracti64x4_epi64(high, 1) : _mm512_castsi512_si256(high);
        const __m512i a = _mm512_add_epi64(HALF(0), _mm512_slli_epi64(HALF(1), 8));
        const __m512i b = _mm512_add_epi64(_mm512_slli_epi64(HALF(2), 16), _mm512_slli_epi64(HALF(3), 24));
#undef HALF
        words[h] = _mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_slli_epi64(_mm512_cvtepu32_epi64(top), 32));
    }
}

/* Puts or adds a 16 x 16 tile of the result at (i, j). */
TARGET_AMX static void finish(const struct product *p, Py_ssize_t i, Py_ssize_t j, uint32_t sums[32][256], int tile,
                              int add) {
    const Py_ssize_t rows = p->x.rows - i < 16 ? p->x.rows - i : 16;
    const Py_ssize_t columns = p->y.columns - j < 16 ? p->y.columns - j : 16;
    const __mmask8 low = columns >= 8 ? 0xff : (__mmask8)((1 << columns) - 1);
    const __mmask8 high = columns < 8 ? 0 : (__mmask8)((1 << (columns - 8)) - 1);
    for (int r = 0; r < rows; r++) {
        __m512i words[2];
        weigh(sums, tile, r, words);
        char *to = p->out + (i + r) * p->out_row + j * p->out_column;
        if (p->out_column == 8) {
            if (add) {
                words[0] = _mm512_add_epi64(words[0], _mm512_maskz_loadu_epi64(low, to));
                words[1] = _mm512_add_epi64(words[1], _mm512_maskz_loadu_epi64(high, to + 64));
            }
            _mm512_mask_storeu_epi64(to, low, words[0]);
            _mm512_mask_storeu_epi64(to + 64, high, words[1]);
            continue;
        }
        uint64_t row[16];
        _mm512_storeu_si512(row, words[0]);
        _mm512_storeu_si512(row + 8, words[1]);
        for (Py_ssize_t c = 0; c < columns; c++, to += p->out_column) *(word *)to = (add ? *(word *)to : 0) + row[c];
    }
}

TARGET_AMX int amx_multiply(const struct product *p) {
    const Py_ssize_t n = p->x.rows, depth = p->x.columns, m = p->y.columns;
    const Py_ssize_t all = (depth + 63) / 64, cuts = (all + DEPTH / 64 - 1) / (DEPTH / 64);
    const Py_ssize_t longest = (all + cuts - 1) / cuts, panels = (m + 15) / 16;
    uint8_t *memory = malloc((size_t)((panels + ROWS / 16) * longest * 8 * TILE + 32 * TILE + 64));
    if (memory == NULL) return -1;
    uint32_t(*sums)[256] = (uint32_t(*)[256])(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    uint8_t *x = (uint8_t *)(sums + 32), *y = x + ROWS / 16 * longest * 8 * TILE;
    struct tile_config config = {.palette = 1};
    for (int t = 0; t < 8; t++) config.row_bytes[t] = 64, config.rows[t] = 16;
    _tile_loadconfig(&config);
    for (Py_ssize_t k = 0; k < depth; k += 64 * longest) {
        const Py_ssize_t left = (depth - k + 63) / 64, tiles = left < longest ? left : longest, panel = tiles * 8 * TILE;
        for (Py_ssize_t j = 0; j < panels; j++) pack_y(&p->y, k, 16 * j, tiles, y + j * panel);
        for (Py_ssize_t i = 0; i < n; i += ROWS) {
            const Py_ssize_t rows = n - i < ROWS ? n - i : ROWS;
            for (Py_ssize_t r = 0; r < rows; r += 16) pack_x(&p->x, i + r, k, tiles, x + r / 16 * panel);
            for (Py_ssize_t j = 0; j < panels; j += 2)
                for (Py_ssize_t r = 0; r < rows; r += 32) {
                    const int two_x = r + 16 < rows, two_y = j + 1 < panels;
                    multiply_panels(x + r / 16 * panel, y + j * panel, tiles, two_x, two_y, sums);
                    for (int tile = 0; tile < 4; tile++)
                        if ((two_x || tile < 2) && (two_y || !(tile & 1)))
                            finish(p, i + r + 16 * (tile >> 1), 16 * (j + (tile & 1)), sums, tile, p->accumulate || k);
                }
        }
    }
    _tile_release();
    free(memory);
    return 0;
}

#else

int amx_ready(void) { return 0; }
int amx_multiply(const struct product *p) {
    (void)p;
    return -1;
}

#endif
