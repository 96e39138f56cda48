/* The module: finds what the processor offers, and lists the functions. */
#include "ring.h"

#include <stdlib.h>

int ring_level = LEVEL_C;

/* Raised with every change of a function's arguments: a stale build beside newer Python code is not used. */
#define REVISION 2

static const char *const level_names[] = {"c", "avx2", "avx512"};

int take(PyObject *const *args, int count, struct array *arrays, unsigned writable) {
    for (int i = 0; i < count; i++) {
        const int flags = PyBUF_C_CONTIGUOUS | (writable >> i & 1 ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(args[i], &arrays[i].view, flags) < 0) {
            release(arrays, i);
            return -1;
        }
        if (arrays[i].view.itemsize != 8) {
            PyErr_Format(PyExc_ValueError, "expected 8-byte items, found %zd-byte items", arrays[i].view.itemsize);
            release(arrays, i + 1);
            return -1;
        }
        arrays[i].at = arrays[i].view.buf;
        arrays[i].size = (size_t)arrays[i].view.len / 8;
    }
    return 0;
}

void release(struct array *arrays, int count) {
    for (int i = 0; i < count; i++) PyBuffer_Release(&arrays[i].view);
}

int degree_fits(size_t degree) {
    if (PyErr_Occurred()) return 0;
    if (degree >= 16 && degree <= 32768 && (degree & (degree - 1)) == 0) return 1;
    PyErr_Format(PyExc_ValueError, "expected a degree that is a power of two from 16 to 32768, found %zu", degree);
    return 0;
}

PyObject *refuse(const char *what) {
    PyErr_Format(PyExc_ValueError, "%s: the sizes of the arrays do not fit", what);
    return NULL;
}

static int find_level(void) {
#if RING_X86
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma")))
        return LEVEL_C;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512ifma"))
        return LEVEL_AVX512;
    return LEVEL_AVX2;
#else
    return LEVEL_C;
#endif
}

#define FUNCTION(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, NULL}

static PyMethodDef methods[] = {
    FUNCTION(ntt),       FUNCTION(intt),        FUNCTION(combine),      FUNCTION(dot),      FUNCTION(encode_rows),
    FUNCTION(unpack),    FUNCTION(drop_last),   FUNCTION(reduce_words), FUNCTION(to_torus), FUNCTION(reduce_signed),
    FUNCTION(pack),      FUNCTION(from_torus),  FUNCTION(automorphism), FUNCTION(accept),   FUNCTION(automorphism_ntt),
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "Kernels in C; see enclave.engines.he.kernels.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL) return NULL;
    ring_level = find_level();
    /* Tests hold the variants against each other: a lower level may be asked for, a higher one may not. */
    const char *wanted = getenv("ENCLAVE_KERNELS");
    for (int i = 0; wanted != NULL && i < ring_level; i++)
        if (strcmp(wanted, level_names[i]) == 0) ring_level = i;
    if (PyModule_AddIntConstant(module, "REVISION", REVISION) < 0 ||
        PyModule_AddStringConstant(module, "LEVEL", level_names[ring_level]) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
