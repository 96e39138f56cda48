/* b z from z under a mask and b under a bit: what a gate does once both are open, in one pass; see kernels.select. */
#include "kernels.h"

struct selection {
    const word *c, *rho, *hidden, *flipped;
    const uint8_t *d;
    const void *top, *flipped_top; /* of `top_bytes` each; none without a shift */
    Py_ssize_t top_bytes;
    word *out;
    size_t n;
    uint64_t offset;
    unsigned shift;
    int leader;
};

typedef uint32_t half __attribute__((aligned(1), may_alias));

/* Constant time: the choice by the public bit d is a mask, so that the loop has no branch at all. */
INLINE void select_words(const struct selection *s, const int shifted, const int halves) {
    const uint64_t leader = s->leader ? ~0ull : 0, offset = s->offset >> s->shift;
    const unsigned shift = s->shift;
    const size_t n = s->n;
    const word *restrict opened = s->c, *restrict rho = s->rho, *restrict masks = s->hidden;
    const word *restrict flips = s->flipped, *restrict tops = s->top, *restrict flipped_tops = s->flipped_top;
    const half *restrict half_tops = s->top, *restrict half_flipped_tops = s->flipped_top;
    const uint8_t *restrict d = s->d;
    word *restrict out = s->out;
    for (size_t i = 0; i < n; i++) {
        uint64_t c = opened[i], hidden = masks[i], flipped = flips[i];
        if (shifted) {
            const uint64_t unwrapped = 0 - (~c >> 63); /* all ones where the top bit of c is 0 */
            hidden -= (unwrapped & (halves ? half_tops[i] : tops[i])) << (64 - shift);
            flipped -= (unwrapped & (halves ? half_flipped_tops[i] : flipped_tops[i])) << (64 - shift);
            c >>= shift;
        }
        c -= offset;
        const uint64_t gated = c * rho[i] - flipped, whole = (c & leader) - hidden;
        out[i] = gated ^ ((gated ^ (whole - gated)) & (0 - (uint64_t)d[i]));
    }
}

INLINE void select_cases(const struct selection *s) {
    if (!s->shift)
        select_words(s, 0, 0);
    else if (s->top_bytes == 4)
        select_words(s, 1, 1);
    else
        select_words(s, 1, 0);
}

#if KERNELS_X86
/* Not by AVX-512: its 64-bit multiplication is slow on some processors, and memory is the limit. */
TARGET_AVX2 static void select_avx2(const struct selection *s) { select_cases(s); }
#endif

static void select_c(const struct selection *s) { select_cases(s); }

#define BUFFERS 8

/* select(c, d, rho, hidden, flipped, top, flipped_top, out, shift, offset, leader); no tops: None */
PyObject *py_select(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 11) return PyErr_Format(PyExc_TypeError, "select: expected eleven arguments");
    struct selection s = {.shift = (unsigned)PyLong_AsUnsignedLong(args[8]),
                          .offset = PyLong_AsUnsignedLongLong(args[9]), .leader = PyObject_IsTrue(args[10])};
    if (PyErr_Occurred()) return NULL;
    const int tops = args[5] != Py_None;
    Py_buffer b[BUFFERS];
    int taken = 0, good = 1;
    for (int i = 0; i < BUFFERS; i++) {
        b[i].obj = NULL;
        if ((i == 5 || i == 6) && !tops) continue;
        if (PyObject_GetBuffer(args[i], &b[i], PyBUF_C_CONTIGUOUS | (i == 7 ? PyBUF_WRITABLE : 0)) < 0) {
            for (int k = 0; k < i; k++)
                if (b[k].obj != NULL) PyBuffer_Release(&b[k]);
            return NULL;
        }
        taken = i + 1;
    }
    s.n = (size_t)b[0].len / 8;
    s.top_bytes = tops ? b[5].itemsize : 0;
    for (int i = 0; i < BUFFERS; i++) {
        const Py_ssize_t size = i == 1 ? 1 : i == 5 || i == 6 ? s.top_bytes : 8;
        if (b[i].obj != NULL) good &= b[i].itemsize == size && (size_t)b[i].len == (size_t)size * s.n;
    }
    good &= s.shift < 64 && tops == (s.shift != 0) && (!tops || s.top_bytes == 4 || s.top_bytes == 8);
    if (good) {
        s.c = b[0].buf, s.d = b[1].buf, s.rho = b[2].buf, s.hidden = b[3].buf, s.flipped = b[4].buf, s.out = b[7].buf;
        if (tops) s.top = b[5].buf, s.flipped_top = b[6].buf;
        PyThreadState *state = unlock((Py_ssize_t)s.n);
#if KERNELS_X86
        if (kernels_level >= LEVEL_AVX2)
            select_avx2(&s);
        else
#endif
            select_c(&s);
        lock(state);
    } else {
        PyErr_SetString(PyExc_ValueError, "select: expected arrays of one length, and tops with a shift below 64");
    }
    for (int i = 0; i < taken; i++)
        if (b[i].obj != NULL) PyBuffer_Release(&b[i]);
    if (!good) return NULL;
    Py_RETURN_NONE;
}

/* ---- one of two numbers by a bit */

#define CHOOSE(name, type) \
    INLINE void name(const uint8_t *restrict d, const type *restrict yes, const type *restrict no, type *restrict out, \
                     size_t n) { \
        for (size_t i = 0; i < n; i++) out[i] = no[i] ^ ((no[i] ^ yes[i]) & (type)(0 - (type)(d[i] & 1))); \
    }
CHOOSE(choose_words, word)
CHOOSE(choose_halves, half)
CHOOSE(choose_bytes, uint8_t)

INLINE void choose_sized(const uint8_t *d, const void *yes, const void *no, void *out, size_t n, Py_ssize_t size) {
    if (size == 8)
        choose_words(d, yes, no, out, n);
    else if (size == 4)
        choose_halves(d, yes, no, out, n);
    else
        choose_bytes(d, yes, no, out, n);
}

#if KERNELS_X86
TARGET_AVX2 static void choose_avx2(const uint8_t *d, const void *yes, const void *no, void *out, size_t n,
                                    Py_ssize_t size) {
    choose_sized(d, yes, no, out, n, size);
}
#endif

static void choose_c(const uint8_t *d, const void *yes, const void *no, void *out, size_t n, Py_ssize_t size) {
    choose_sized(d, yes, no, out, n, size);
}

/* choose(d, yes, no, out) */
PyObject *py_choose(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    Py_buffer b[4];
    if (count != 4) return PyErr_Format(PyExc_TypeError, "choose: expected four arguments");
    for (int i = 0; i < 4; i++)
        if (PyObject_GetBuffer(args[i], &b[i], PyBUF_C_CONTIGUOUS | (i == 3 ? PyBUF_WRITABLE : 0)) < 0) {
            while (i--) PyBuffer_Release(&b[i]);
            return NULL;
        }
    const Py_ssize_t n = b[0].len, size = b[3].itemsize;
    int good = b[0].itemsize == 1 && (size == 1 || size == 4 || size == 8);
    for (int i = 1; i < 4; i++) good &= b[i].itemsize == size && b[i].len == n * size;
    if (good) {
        PyThreadState *state = unlock(n);
#if KERNELS_X86
        if (kernels_level >= LEVEL_AVX2)
            choose_avx2(b[0].buf, b[1].buf, b[2].buf, b[3].buf, (size_t)n, size);
        else
#endif
            choose_c(b[0].buf, b[1].buf, b[2].buf, b[3].buf, (size_t)n, size);
        lock(state);
    } else {
        PyErr_SetString(PyExc_ValueError, "choose: expected bits as bytes, and arrays of one length and type");
    }
    for (int i = 0; i < 4; i++) PyBuffer_Release(&b[i]);
    if (!good) return NULL;
    Py_RETURN_NONE;
}
