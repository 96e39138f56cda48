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
#define TARGET_AVX512 \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi,avx512ifma,avx2,bmi2,aes,vaes,gfni")))
#else
#define KERNELS_X86 0
#endif

#define INLINE static inline __attribute__((always_inline))

/* A word at any address: numpy arrays may be unaligned. */
typedef uint64_t word __attribute__((aligned(1), may_alias));

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

/* Python functions, one file each. */
PyObject *py_expand_key(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_aes_ctr(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_run_program(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_to_planes(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_from_planes(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *py_pack_bits(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
