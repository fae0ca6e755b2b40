/* Which of many pre-activations are the largest, or above a floor: see selection.py.

   Compiled once for each type of numbers, KEY being the integer of its width and INFINITE the bits of its infinity. The
   bits of a floating-point number are a sign and a size that has the number's order, so that everything here compares
   integers; sizes beyond infinity are NaNs, which count as infinity, and as above nothing.
   Rows are looked at in blocks whose largest key is found by vector instructions; only blocks that can hold something
   wanted are looked at entry by entry. */

#include <stdint.h>
#include <stdlib.h>

typedef KEY key;
#define BITS ((int)(8 * sizeof(key)))
#define BLOCK 32

#define LOWEST ((key)((uint64_t)1 << (BITS - 1)))
#define HIGHEST ((key)~((uint64_t)1 << (BITS - 1)))

static inline key ordered(key bits, key nan) {
    const key size = bits & HIGHEST, sign = bits >> (BITS - 1);
    return size > (key)INFINITE ? nan : (key)((size ^ sign) - sign);
}

/* The k-th largest of n keys: the largest bound that at least k of them reach, found bit by bit. */
static key kth(const key *keys, int n, int k) {
    uint64_t bound = 0;
    const uint64_t sign = (uint64_t)1 << (BITS - 1);
    for (uint64_t bit = sign; bit; bit >>= 1) {
        const key trial = (key)((bound | bit) ^ sign);
        int reach = 0;
        for (int i = 0; i < n; i++) reach += keys[i] >= trial;
        if (reach >= k) bound |= bit;
    }
    return (key)(bound ^ sign);
}

static inline key largest_of(const key *row, int n) {
    key top = ordered(row[0], INFINITE);
    for (int i = 1; i < n; i++) {
        const key one = ordered(row[i], INFINITE);
        top = one > top ? one : top;
    }
    return top;
}

static inline int width(int block, int n) { return n - block * BLOCK < BLOCK ? n - block * BLOCK : BLOCK; }

/* The k largest of a row, in the row's order. The k-th largest of the blocks' largest is a bound on what can be one. */
static void largest_of_row(const key *row, int n, int k, key *tops, key *found, int *where, key *values, int64_t *at) {
    const int blocks = (n + BLOCK - 1) / BLOCK;
    for (int b = 0; b < blocks - 1; b++) tops[b] = largest_of(row + b * BLOCK, BLOCK);
    tops[blocks - 1] = largest_of(row + (blocks - 1) * BLOCK, width(blocks - 1, n));
    const key floor = blocks >= k ? kth(tops, blocks, k) : LOWEST;
    int candidates = 0;
    for (int b = 0; b < blocks; b++) {
        if (tops[b] < floor) continue;
        for (int i = b * BLOCK; i < b * BLOCK + width(b, n); i++) {
            found[candidates] = ordered(row[i], INFINITE);
            where[candidates] = i;
            candidates += found[candidates] >= floor;
        }
    }
    const key edge = kth(found, candidates, k);
    int spare = k;
    for (int c = 0; c < candidates; c++) spare -= found[c] > edge;
    for (int c = 0; c < candidates; c++) {
        if (found[c] < edge || (found[c] == edge && spare-- <= 0)) continue;
        *values++ = row[where[c]];
        *at++ = where[c];
    }
}

/* 0 if there was memory for it. */
int largest(const key *u, int64_t rows, int n, int k, key *values, int64_t *at, int threads) {
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        key *tops = malloc(sizeof(key) * (2 * (size_t)n + 2));
        int *where = malloc(sizeof(int) * ((size_t)n + 1));
        if (!tops || !where) failed = 1;
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++)
            if (!failed) largest_of_row(u + r * n, n, k, tops, tops + n + 1, where, values + r * k, at + r * k);
        free(tops);
        free(where);
    }
    return failed;
}

static inline int any_above(const key *row, const key *floors, int n) {
    int any = 0;
    for (int i = 0; i < n; i++) any |= ordered(row[i], LOWEST) > floors[i];
    return any;
}

/* How many of each row are above the floors, which are ordered. */
void count_above(const key *u, int64_t rows, int n, const key *floors, int64_t *counts, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        int count = 0;
        for (int i = 0; i < n; i++) count += ordered(u[r * n + i], LOWEST) > floors[i];
        counts[r] = count;
    }
}

/* Those entries, row by row; `starts` is where each row's begin. */
void take_above(const key *u, int64_t rows, int n, const key *floors, const int64_t *starts, key *values, int64_t *row_of,
                int64_t *at, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const key *row = u + r * n;
        int64_t next = starts[r];
        for (int b = 0; b * BLOCK < n; b++) {
            const int begin = b * BLOCK, end = begin + width(b, n);
            if (!any_above(row + begin, floors + begin, end - begin)) continue;
            for (int i = begin; i < end; i++) {
                if (ordered(row[i], LOWEST) <= floors[i]) continue;
                values[next] = row[i];
                row_of[next] = r;
                at[next++] = i;
            }
        }
    }
}
