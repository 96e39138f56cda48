/* Bit-sliced straight-line programs: reg[dst] = (reg[a] & reg[b]) ^ reg[c] over planes of 64-bit words.
 *
 * Planes are worked through in strips so short that all registers stay in the second-level cache. (Still shorter ones,
 * for the first level, are slower: every strip visits the pages of all planes.) Programs are public.
 */
#include "kernels.h"

#define CACHE_BYTES (192 * 1024)
#define LONGEST 16 /* lines of a strip */
#define CONSTANTS 3
#define MOST_REGISTERS (1 << 24) /* far beyond any program; sizes in bytes cannot overflow */

typedef uint64_t line __attribute__((vector_size(64), may_alias)); /* 8 words: one cache line */

struct program {
    const int32_t *code;
    Py_ssize_t rows, registers, width;
    int one;
    Py_buffer *in, *out, *lists; /* lists[i]: the registers of out[i] */
    Py_ssize_t inputs, outputs;
};

INLINE void load_strip(line *to, const char *from, Py_ssize_t words, int lines) {
    if (words >= 8 * lines) {
        memcpy(to, from, 64 * (size_t)lines);
    } else {
        memset(to, 0, 64 * (size_t)lines);
        memcpy(to, from, 8 * (size_t)words);
    }
}

INLINE void run_strips(const struct program *p, line *registers, int lines) {
    memset(registers, 0, (size_t)(CONSTANTS * lines) * 64);
    memset(registers + 2 * lines, 0xff, (size_t)lines * 64);
    if (p->one) memset(registers + lines, 0xff, (size_t)lines * 64);
    for (Py_ssize_t at = 0; at < p->width; at += 8 * lines) {
        const Py_ssize_t left = p->width - at, words = left < 8 * lines ? left : 8 * lines;
        line *next = registers + CONSTANTS * lines;
        for (Py_ssize_t i = 0; i < p->inputs; i++)
            for (Py_ssize_t row = 0; row < p->in[i].shape[0]; row++, next += lines)
                load_strip(next, (const char *)p->in[i].buf + row * p->in[i].strides[0] + 8 * at, words, lines);
        const int32_t *code = p->code;
        for (Py_ssize_t i = 0; i < p->rows; i++, code += 4) {
            line *dst = registers + (size_t)code[0] * lines;
            const line *a = registers + (size_t)code[1] * lines, *b = registers + (size_t)code[2] * lines;
            const line *c = registers + (size_t)code[3] * lines;
#pragma GCC unroll 8
            for (int k = 0; k < lines; k++) dst[k] = (a[k] & b[k]) ^ c[k];
        }
        for (Py_ssize_t i = 0; i < p->outputs; i++) {
            const int32_t *list = p->lists[i].buf;
            for (Py_ssize_t row = 0; row < p->out[i].shape[0]; row++)
                memcpy((char *)p->out[i].buf + row * p->out[i].strides[0] + 8 * at, registers + (size_t)list[row] * lines,
                       8 * (size_t)words);
        }
    }
}

INLINE void run_sized(const struct program *p, line *registers, int lines) {
    switch (lines) {
        case 1: run_strips(p, registers, 1); break;
        case 2: run_strips(p, registers, 2); break;
        case 4: run_strips(p, registers, 4); break;
        case 8: run_strips(p, registers, 8); break;
        default: run_strips(p, registers, LONGEST);
    }
}

#if KERNELS_X86
TARGET_AVX512 static void run_avx512(const struct program *p, line *registers, int lines) {
    run_sized(p, registers, lines);
}

TARGET_AVX2 static void run_avx2(const struct program *p, line *registers, int lines) {
    run_sized(p, registers, lines);
}
#endif

static void run_c(const struct program *p, line *registers, int lines) { run_sized(p, registers, lines); }

static void run(const struct program *p, line *registers, int lines) {
#if KERNELS_X86
    if (kernels_level >= LEVEL_AVX512) {
        run_avx512(p, registers, lines);
        return;
    }
    if (kernels_level >= LEVEL_AVX2) {
        run_avx2(p, registers, lines);
        return;
    }
#endif
    run_c(p, registers, lines);
}

static int in_range(const int32_t *list, Py_ssize_t count, Py_ssize_t registers) {
    int32_t low = 0, high = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (list[i] < low) low = list[i];
        if (list[i] > high) high = list[i];
    }
    return low >= 0 && (count == 0 || high < registers);
}

static int check(const struct program *p) {
    int good = in_range(p->code, 4 * p->rows, p->registers);
    for (Py_ssize_t i = 0; i < p->rows; i++) good &= p->code[4 * i] >= CONSTANTS;
    Py_ssize_t filled = CONSTANTS;
    for (Py_ssize_t i = 0; i < p->inputs; i++) {
        filled += p->in[i].shape[0];
        good &= p->in[i].shape[1] == p->width && (p->in[i].strides[1] == 8 || p->width <= 1);
    }
    for (Py_ssize_t i = 0; i < p->outputs; i++) {
        good &= p->out[i].shape[1] == p->width && (p->out[i].strides[1] == 8 || p->width <= 1);
        good &= p->lists[i].shape[0] == p->out[i].shape[0];
        good &= in_range(p->lists[i].buf, p->lists[i].shape[0], p->registers);
    }
    return good && filled <= p->registers && p->registers <= MOST_REGISTERS;
}

static int take_all(PyObject *tuple, Py_buffer *buffers, Py_ssize_t *taken, const char *name, int ndim, int size,
                    int writable) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
        if (take_buffer(PyTuple_GET_ITEM(tuple, i), &buffers[i], name, ndim, size, writable) < 0) return -1;
        ++*taken;
    }
    return 0;
}

/* run_program(code, registers, one, inputs, lists, outputs) */
PyObject *py_run_program(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 6 || !PyTuple_Check(args[3]) || !PyTuple_Check(args[4]) || !PyTuple_Check(args[5]) ||
        PyTuple_GET_SIZE(args[4]) != PyTuple_GET_SIZE(args[5]))
        return PyErr_Format(PyExc_TypeError, "run_program(code, registers, one, inputs, lists, outputs): bad arguments");
    struct program p = {.registers = PyLong_AsSsize_t(args[1]), .one = PyObject_IsTrue(args[2]),
                        .inputs = PyTuple_GET_SIZE(args[3]), .outputs = PyTuple_GET_SIZE(args[5])};
    if (PyErr_Occurred()) return NULL;
    const Py_ssize_t total = 1 + p.inputs + 2 * p.outputs;
    Py_buffer *buffers = PyMem_Malloc((size_t)total * sizeof *buffers);
    if (buffers == NULL) return PyErr_NoMemory();
    Py_ssize_t taken = 0;
    PyObject *result = NULL;
    void *memory = NULL;
    p.in = buffers + 1, p.lists = p.in + p.inputs, p.out = p.lists + p.outputs;
    if (take_buffer(args[0], buffers, "code", -1, 4, 0) < 0) goto done;
    taken = 1;
    if (take_all(args[3], p.in, &taken, "inputs", 2, 8, 0) < 0 || take_all(args[4], p.lists, &taken, "lists", 1, 4, 0) < 0 ||
        take_all(args[5], p.out, &taken, "outputs", 2, 8, 1) < 0)
        goto done;
    p.code = buffers[0].buf, p.rows = buffers[0].len / 16;
    p.width = p.inputs ? p.in[0].shape[1] : p.outputs ? p.out[0].shape[1] : 0;
    for (Py_ssize_t i = 0; i < p.outputs; i++)
        if (!PyBuffer_IsContiguous(&p.lists[i], 'C')) p.registers = 0;
    if (!check(&p)) {
        PyErr_SetString(PyExc_ValueError, "run_program: expected planes of one width and registers within range");
        goto done;
    }
    int lines = 1;
    while (lines < LONGEST && 2 * lines * 64 * p.registers <= CACHE_BYTES && 8 * lines < p.width) lines *= 2;
    memory = PyMem_RawMalloc((size_t)(p.registers * lines + 1) * 64);
    if (memory == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    line *registers = (line *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    PyThreadState *state = unlock((p.rows + p.registers) * p.width);
    run(&p, registers, lines);
    lock(state);
    result = Py_NewRef(Py_None);
done:
    for (Py_ssize_t i = 0; i < taken; i++) PyBuffer_Release(&buffers[i]);
    PyMem_Free(buffers);
    PyMem_RawFree(memory);
    return result;
}
