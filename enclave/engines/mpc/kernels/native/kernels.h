/* What the files of this extension share: words, buffers, and the choice of instructions.
 *
 * Constant time: no kernel branches on, or computes an address from, anything but shapes, public indexes and public
 * programs. Key material and shares pass only through arithmetic, logic, shuffles by constants and AES instructions.
 */
#ifndef ENCLAVE_KERNELS_H
#define ENCLAVE_KERNELS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define KERNELS_X86 1
#include <immintrin.h>
#define TARGET_AES __attribute__((target("avx,aes,pclmul")))
#define TARGET_AVX2 __attribute__((target("avx2,bmi2,aes")))
#if defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define KERNELS_AMX 1
#define TARGET_AMX __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi,avx2,bmi2,amx-tile,amx-int8")))
#else
#define KERNELS_AMX 0
#endif
#define TARGET_AVX512 \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi,avx512ifma,avx2,bmi2,aes,vaes,gfni")))
#else
#define KERNELS_X86 0
#define KERNELS_AMX 0
#endif

#define INLINE static inline __attribute__((always_inline))

/* A word at any address: numpy arrays may be unaligned. */
typedef uint64_t word __attribute__((aligned(1), may_alias));

#if KERNELS_X86
/* r[i] word k becomes r[k] word i. */
TARGET_AVX512 INLINE void transpose_words(__m512i r[8]) {
    __m512i t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm512_unpacklo_epi64(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi64(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        __m512i a = _mm512_shuffle_i64x2(t[h], t[2 + h], 0x88), b = _mm512_shuffle_i64x2(t[h], t[2 + h], 0xdd);
        __m512i c = _mm512_shuffle_i64x2(t[4 + h], t[6 + h], 0x88), d = _mm512_shuffle_i64x2(t[4 + h], t[6 + h], 0xdd);
        r[h] = _mm512_shuffle_i64x2(a, c, 0x88);
        r[4 + h] = _mm512_shuffle_i64x2(a, c, 0xdd);
        r[2 + h] = _mm512_shuffle_i64x2(b, d, 0x88);
        r[6 + h] = _mm512_shuffle_i64x2(b, d, 0xdd);
    }
}
#endif

/* Instruction sets, each containing the ones before. */
enum level { LEVEL_C, LEVEL_AVX2, LEVEL_AVX512, LEVEL_AMX };

extern int kernels_level; /* written once, when the module is made */

/* Lets other Python threads run while `work` simple steps are done; for few of them the lock is kept, since releasing
 * it would cost more than a thread could gain. NULL: kept. */
static inline PyThreadState *unlock(Py_ssize_t work) { return work < (1 << 15) ? NULL : PyEval_SaveThread(); }

static inline void lock(PyThreadState *state) {
    if (state != NULL) PyEval_RestoreThread(state);
}

/* Takes a buffer of 8-byte items (or `itemsize`) with `ndim` dimensions (-1: any, C-contiguous). 0, or -1 with an
 * exception. */
int take_buffer(PyObject *object, Py_buffer *buffer, const char *name, int ndim, int itemsize, int writable);

/* A product of matrices of words: out = x y, or out += x y. */
struct matrix {
    const char *at;
    Py_ssize_t rows, columns, row_step, column_step; /* steps in bytes */
};

struct product {
    struct matrix x, y;
    char *out;
    Py_ssize_t out_row, out_column; /* steps in bytes */
    int accumulate;
};

/* Whether the processor and the operating system let this process use tiles. */
int amx_ready(void);

/* The product by tiles; -1 when there is no memory. */
int amx_multiply(const struct product *p);

/* Python functions, one file each. */
PyObject *py_expand_key(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_aes_ctr(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_run_program(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_to_planes(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_from_planes(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_pack_bits(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_matmul(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_select(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_choose(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_dcf_keys(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_dcf_evaluate(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
