/* The module: finds what the processor offers, and lists the functions. */
#include "kernels.h"

#include <stdlib.h>
#if KERNELS_AMX
#include <cpuid.h>
#endif

int kernels_level = LEVEL_C;

/* Raised with every change of a function's arguments: a stale build beside newer Python code is not used. */
#define REVISION 2

static const char *const level_names[] = {"c", "avx2", "avx512", "amx"};

int take_buffer(PyObject *object, Py_buffer *buffer, const char *name, int ndim, int itemsize, int writable) {
    int flags = (ndim < 0 ? PyBUF_C_CONTIGUOUS : PyBUF_STRIDES) | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, buffer, flags) < 0) return -1;
    if ((ndim >= 0 && buffer->ndim != ndim) || buffer->itemsize != itemsize) {
        PyErr_Format(PyExc_ValueError, "%s: expected %d-byte items in %d dimensions, found %zd-byte items in %d", name,
                     itemsize, ndim, buffer->itemsize, buffer->ndim);
        PyBuffer_Release(buffer);
        return -1;
    }
    return 0;
}

static int find_level(void) {
#if KERNELS_X86
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("aes") &&
          __builtin_cpu_supports("pclmul")))
        return LEVEL_C;
    if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
          __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512ifma") &&
          __builtin_cpu_supports("vaes") && __builtin_cpu_supports("gfni")))
        return LEVEL_AVX2;
#if KERNELS_AMX
    unsigned a, b, c, d;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 3) == 3) return LEVEL_AMX; /* tiles, and int8 in them */
#endif
    return LEVEL_AVX512;
#else
    return LEVEL_C;
#endif
}

static PyMethodDef methods[] = {
    {"expand_key", (PyCFunction)(void (*)(void))py_expand_key, METH_FASTCALL, NULL},
    {"aes_ctr", (PyCFunction)(void (*)(void))py_aes_ctr, METH_FASTCALL, NULL},
    {"run_program", (PyCFunction)(void (*)(void))py_run_program, METH_FASTCALL, NULL},
    {"to_planes", (PyCFunction)(void (*)(void))py_to_planes, METH_FASTCALL, NULL},
    {"from_planes", (PyCFunction)(void (*)(void))py_from_planes, METH_FASTCALL, NULL},
    {"pack_bits", (PyCFunction)(void (*)(void))py_pack_bits, METH_FASTCALL, NULL},
    {"matmul", (PyCFunction)(void (*)(void))py_matmul, METH_FASTCALL, NULL},
    {"dcf_keys", (PyCFunction)(void (*)(void))py_dcf_keys, METH_FASTCALL, NULL},
    {"dcf_evaluate", (PyCFunction)(void (*)(void))py_dcf_evaluate, METH_FASTCALL, NULL},
    {"select", (PyCFunction)(void (*)(void))py_select, METH_FASTCALL, NULL},
    {"choose", (PyCFunction)(void (*)(void))py_choose, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "Kernels in C; see enclave.engines.mpc.kernels.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL) return NULL;
    kernels_level = find_level();
    /* Tests hold the variants against each other: a lower level may be asked for, a higher one may not. */
    const char *wanted = getenv("ENCLAVE_KERNELS");
    for (int i = 0; wanted != NULL && i < kernels_level; i++)
        if (strcmp(wanted, level_names[i]) == 0) kernels_level = i;
    if (PyModule_AddIntConstant(module, "REVISION", REVISION) < 0 ||
        PyModule_AddStringConstant(module, "LEVEL", level_names[kernels_level]) < 0 ||
        PyModule_AddObjectRef(module, "HAS_AES", kernels_level >= LEVEL_AVX2 ? Py_True : Py_False) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
