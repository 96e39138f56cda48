/* Keys and evaluation for vectors of LANES elements; included once for each width. The includer defines
 *
 *   TARGET, NAME(f), VEC, LANES          attributes, names, the vector of LANES 128-bit blocks
 *   XOR AND ANDNOT ADD SUB               on bits, and on 64-bit words
 *   ENC(x, k) ENCLAST(x, k)              one AES round
 *   SHIFT(x)                             words shifted left by one
 *   TOP(x) LOW(x)                        all ones in a block where the top (lowest) bit of its words (low word) is 1
 *   SIGMA(x)                             (high ^ low, high) of every block (high, low)
 *   KEY(p)                               a round key in every block
 *   LOAD_BLOCKS STORE_BLOCKS(p, n)       n blocks at most, from p
 *   LOAD_TWICE(p, n)                     words from p, each in both halves of a block
 *   LOAD_ROWS(p, q, n) STORE_ROWS        low halves at p, high halves at q (NULL: none)
 */

#define GROUP 4 /* vectors in flight */

/* x = AES(sigma(x)) ^ sigma(x): circular correlation robust in the ideal-permutation model. */
TARGET INLINE void NAME(hash)(VEC *x, int count, const VEC *key) {
    VEC y[GROUP];
#pragma GCC unroll 4
    for (int g = 0; g < count; g++) {
        x[g] = SIGMA(x[g]);
        y[g] = XOR(x[g], key[0]);
    }
#pragma GCC unroll 9
    for (int r = 1; r < ROUNDS; r++)
#pragma GCC unroll 4
        for (int g = 0; g < count; g++) y[g] = ENC(y[g], key[r]);
#pragma GCC unroll 4
    for (int g = 0; g < count; g++) x[g] = XOR(x[g], ENCLAST(y[g], key[ROUNDS]));
}

TARGET INLINE void NAME(read_keys)(const struct dcf *d, VEC key[1 + MOST_BLOCKS][ROUNDS + 1]) {
    for (int k = 0; k <= d->blocks; k++)
        for (int r = 0; r <= ROUNDS; r++) key[k][r] = KEY(d->schedules[k] + 16 * r);
}

#define LEFT(g) (left - STEP * (g) > STEP ? STEP : left - STEP * (g) > 0 ? left - STEP * (g) : 0)
#define STEP ((int)LANES)
#define ROW(base, level, p) ((size_t)(p) < d->payload ? (base) + ((size_t)(level) * d->payload + (p)) * d->n + at : NULL)
#define OFFSET(pointer, words) ((pointer) == NULL ? NULL : (pointer) + (words))

TARGET INLINE void NAME(evaluate_group)(const struct dcf *d, const VEC key[1 + MOST_BLOCKS][ROUNDS + 1], size_t at,
                                        int left, int count, int blocks) {
    VEC s[GROUP], point[GROUP], sum[MOST_BLOCKS][GROUP], h[GROUP];
#pragma GCC unroll 4
    for (int g = 0; g < count; g++) {
        s[g] = LOAD_BLOCKS(d->roots[0] + 2 * (at + STEP * g), LEFT(g));
        point[g] = LOAD_TWICE(d->points + at + STEP * g, LEFT(g));
        for (int b = 0; b < blocks; b++) sum[b][g] = ZERO;
    }
    for (int i = 0; i < 64 - d->levels; i++)
        for (int g = 0; g < count; g++) point[g] = SHIFT(point[g]);
    for (int level = 0; level < d->levels; level++) {
        const word *seeds = d->seeds + 2 * ((size_t)level * d->n + at);
#pragma GCC unroll 4
        for (int g = 0; g < count; g++) h[g] = s[g];
        NAME(hash)(h, count, key[0]);
#pragma GCC unroll 4
        for (int g = 0; g < count; g++) {
            const VEC fix = AND(LOAD_BLOCKS(seeds + 2 * STEP * g, LEFT(g)), LOW(s[g]));
            s[g] = XOR(XOR(h[g], AND(s[g], TOP(point[g]))), fix);
            point[g] = SHIFT(point[g]);
        }
        for (int b = 0; b < blocks; b++) {
            const word *p = ROW(d->values, level, 2 * b), *q = ROW(d->values, level, 2 * b + 1);
#pragma GCC unroll 4
            for (int g = 0; g < count; g++) h[g] = s[g];
            NAME(hash)(h, count, key[1 + b]);
#pragma GCC unroll 4
            for (int g = 0; g < count; g++) {
                const VEC fix = AND(LOAD_ROWS(p + STEP * g, OFFSET(q, STEP * g), LEFT(g)), LOW(s[g]));
                sum[b][g] = ADD(sum[b][g], ADD(h[g], fix));
            }
        }
    }
    for (int b = 0; b < blocks; b++) {
        word *p = ROW(d->sums, 0, 2 * b), *q = ROW(d->sums, 0, 2 * b + 1);
#pragma GCC unroll 4
        for (int g = 0; g < count; g++)
            STORE_ROWS(p + STEP * g, OFFSET(q, STEP * g), LEFT(g), d->party ? SUB(ZERO, sum[b][g]) : sum[b][g]);
    }
}

TARGET INLINE void NAME(generate_group)(const struct dcf *d, const VEC key[1 + MOST_BLOCKS][ROUNDS + 1], size_t at,
                                        int left, int count, int blocks) {
    VEC s[2][GROUP], h[2][GROUP], alpha[GROUP], delta[GROUP], beta[MOST_BLOCKS][GROUP];
#pragma GCC unroll 4
    for (int g = 0; g < count; g++) {
        for (int party = 0; party < 2; party++)
            s[party][g] = LOAD_BLOCKS(d->roots[party] + 2 * (at + STEP * g), LEFT(g));
        delta[g] = XOR(s[0][g], s[1][g]);
        alpha[g] = LOAD_TWICE(d->points + at + STEP * g, LEFT(g));
        for (int b = 0; b < blocks; b++) {
            const word *p = ROW(d->betas, 0, 2 * b), *q = ROW(d->betas, 0, 2 * b + 1);
            beta[b][g] = LOAD_ROWS(p + STEP * g, OFFSET(q, STEP * g), LEFT(g));
        }
    }
    for (int i = 0; i < 64 - d->levels; i++)
        for (int g = 0; g < count; g++) alpha[g] = SHIFT(alpha[g]);
    for (int level = 0; level < d->levels; level++) {
        word *seeds = d->seeds_out + 2 * ((size_t)level * d->n + at);
        for (int party = 0; party < 2; party++) {
#pragma GCC unroll 4
            for (int g = 0; g < count; g++) h[party][g] = s[party][g];
            NAME(hash)(h[party], count, key[0]);
        }
#pragma GCC unroll 4
        for (int g = 0; g < count; g++) {
            const VEC up = TOP(alpha[g]), fix = XOR(XOR(h[0][g], h[1][g]), ANDNOT(up, delta[g]));
            STORE_BLOCKS(seeds + 2 * STEP * g, LEFT(g), fix);
            for (int party = 0; party < 2; party++)
                s[party][g] = XOR(XOR(h[party][g], AND(s[party][g], up)), AND(fix, LOW(s[party][g])));
        }
        for (int b = 0; b < blocks; b++) {
            word *p = ROW(d->values_out, level, 2 * b), *q = ROW(d->values_out, level, 2 * b + 1);
            for (int party = 0; party < 2; party++) {
#pragma GCC unroll 4
                for (int g = 0; g < count; g++) h[party][g] = s[party][g];
                NAME(hash)(h[party], count, key[1 + b]);
            }
#pragma GCC unroll 4
            for (int g = 0; g < count; g++) {
                const VEC now = AND(beta[b][g], TOP(alpha[g])), next = AND(beta[b][g], TOP(SHIFT(alpha[g])));
                const VEC fix = ADD(SUB(SUB(next, now), h[0][g]), h[1][g]), negative = LOW(s[1][g]);
                STORE_ROWS(p + STEP * g, OFFSET(q, STEP * g), LEFT(g), SUB(XOR(fix, negative), negative));
            }
        }
#pragma GCC unroll 4
        for (int g = 0; g < count; g++) alpha[g] = SHIFT(alpha[g]);
    }
}

TARGET INLINE void NAME(all_groups)(const struct dcf *d, int blocks) {
    VEC key[1 + MOST_BLOCKS][ROUNDS + 1];
    NAME(read_keys)(d, key);
    size_t at = 0;
    while (at < d->n) {
        const size_t left = d->n - at;
        const size_t most = left <= LANES ? LANES : LANES * GROUP;
        const int few = most == LANES, some = (int)(left < most ? left : most);
        if (d->generate) {
            if (few)
                NAME(generate_group)(d, key, at, some, 1, blocks);
            else
                NAME(generate_group)(d, key, at, some, GROUP, blocks);
        } else {
            if (few)
                NAME(evaluate_group)(d, key, at, some, 1, blocks);
            else
                NAME(evaluate_group)(d, key, at, some, GROUP, blocks);
        }
        at += (size_t)some;
    }
}

TARGET static void NAME(dcf)(const struct dcf *d) {
    if (d->blocks == 1)
        NAME(all_groups)(d, 1);
    else
        NAME(all_groups)(d, 2);
}

#undef GROUP
#undef LEFT
#undef STEP
#undef ROW
#undef OFFSET
