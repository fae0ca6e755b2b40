/* Which of many pre-activations are the largest, or above a floor: see selection.py.

   Compiled once for each type of numbers, KEY being the integer of its width and INFINITE the bits of its infinity. The
   bits of a floating-point number are a sign and a size that has the number's order, so that everything here compares
   integers; sizes beyond infinity are NaNs, which count as infinity, and as above nothing.
   Vector instructions compare a row with a bound and leave a mark, a byte, for each entry that can be wanted; only words
   that have a mark are looked at entry by entry. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef KEY key;
#define BITS ((int)(8 * sizeof(key)))
#define BLOCK 64 /* marks that are looked at together */
#define GROUPS 4 /* times k */
#define COUNTED 16384 /* fit in a key */

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

/* Where there are marks: their number, and their places in order. `marks` has a whole number of blocks. */
static int marked(const uint8_t *marks, int n, int *where) {
    int number = 0;
    for (int begin = 0; begin < n; begin += BLOCK) {
        uint64_t words[BLOCK / 8], any = 0;
        memcpy(words, marks + begin, BLOCK);
        for (int w = 0; w < BLOCK / 8; w++) any |= words[w];
        if (!any) continue;
        for (int w = 0; w < BLOCK / 8; w++) {
            if (!words[w]) continue;
            for (int i = begin + 8 * w; i < begin + 8 * w + 8; i++) {
                where[number] = i;
                number += marks[i];
            }
        }
    }
    return number;
}

/* The k largest of a row, in the row's order. The k-th largest of the groups' largest is a bound on what can be one; a
   group is every `groups`-th entry. */
static void largest_of_row(const key *row, int n, int k, key *found, uint8_t *marks, int *where, key *values,
                           int64_t *at) {
    const int groups = k < n / GROUPS ? GROUPS * k : n;
    for (int i = 0; i < groups; i++) found[i] = ordered(row[i], INFINITE);
    for (int begin = groups; begin < n; begin += groups) {
        const int end = n - begin < groups ? n - begin : groups;
        for (int i = 0; i < end; i++) {
            const key one = ordered(row[begin + i], INFINITE);
            found[i] = one > found[i] ? one : found[i];
        }
    }
    const key floor = kth(found, groups, k);
    for (int i = 0; i < n; i++) marks[i] = ordered(row[i], INFINITE) >= floor;
    const int candidates = marked(marks, n, where);
    for (int c = 0; c < candidates; c++) found[c] = ordered(row[where[c]], INFINITE);
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
        key *found = malloc(sizeof(key) * ((size_t)n + 8));
        int *where = malloc(sizeof(int) * ((size_t)n + 8));
        uint8_t *marks = calloc((size_t)n + BLOCK, 1);
        if (!found || !where || !marks) failed = 1;
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++)
            if (!failed) largest_of_row(u + r * n, n, k, found, marks, where, values + r * k, at + r * k);
        free(found);
        free(where);
        free(marks);
    }
    return failed;
}

/* How many of each row are above the floors, which are ordered. */
void count_above(const key *u, int64_t rows, int n, const key *floors, int64_t *counts, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        counts[r] = 0;
        for (int begin = 0; begin < n; begin += COUNTED) {
            const int end = n - begin < COUNTED ? n : begin + COUNTED;
            key some = 0;
            for (int i = begin; i < end; i++) some += ordered(u[r * n + i], LOWEST) > floors[i];
            counts[r] += some;
        }
    }
}

/* Those entries, row by row; `starts` is where each row's begin. 0 if there was memory for it. */
int take_above(const key *u, int64_t rows, int n, const key *floors, const int64_t *starts, key *values,
               int64_t *row_of, int64_t *at, int threads) {
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        int *where = malloc(sizeof(int) * ((size_t)n + 8));
        uint8_t *marks = calloc((size_t)n + BLOCK, 1);
        if (!where || !marks) failed = 1;
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            if (failed) continue;
            const key *row = u + r * n;
            for (int i = 0; i < n; i++) marks[i] = ordered(row[i], LOWEST) > floors[i];
            const int number = marked(marks, n, where);
            for (int e = 0; e < number; e++) {
                values[starts[r] + e] = row[where[e]];
                row_of[starts[r] + e] = r;
                at[starts[r] + e] = where[e];
            }
        }
        free(where);
        free(marks);
    }
    return failed;
}
