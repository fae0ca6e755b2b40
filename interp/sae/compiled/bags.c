/* Sums over bags of entries, and products along them: see interp/sae/code.py.

   Bag b has the entries from offsets[b] to offsets[b + 1], each with a row (its index) and a weight. Rows are in bfloat16
   or float32; all sums are in float32. Four rows are added at a time, so that a total is loaded and stored once for them,
   and the rows that come next are fetched meanwhile. */

#include <stdint.h>
#include <string.h>

#define AT_ONCE 4

#ifdef BFLOAT16
typedef uint16_t number;
static inline float wide(number x) {
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
#else
typedef float number;
static inline float wide(number x) { return x; }
#endif

static inline void fetch(const number *row, int64_t width) {
#ifdef __GNUC__
    for (int64_t c = 0; c < width; c += 64 / (int64_t)sizeof(number)) __builtin_prefetch(row + c);
#endif
}

/* out[b] = the sum over the bag of weight * row. */
void bag_sums(const number *rows, const int64_t *index, const float *weights, const int64_t *offsets, int64_t bags,
              int64_t width, float *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
    for (int64_t b = 0; b < bags; b++) {
        float *restrict total = out + b * width;
        int64_t e = offsets[b];
        const int64_t end = offsets[b + 1];
        memset(total, 0, sizeof(float) * width);
        for (; e + AT_ONCE <= end; e += AT_ONCE) {
            const number *r0 = rows + index[e] * width, *r1 = rows + index[e + 1] * width;
            const number *r2 = rows + index[e + 2] * width, *r3 = rows + index[e + 3] * width;
            const float w0 = weights[e], w1 = weights[e + 1], w2 = weights[e + 2], w3 = weights[e + 3];
            for (int64_t next = e + AT_ONCE; next < e + 2 * AT_ONCE && next < end; next++)
                fetch(rows + index[next] * width, width);
            for (int64_t i = 0; i < width; i++)
                total[i] += w0 * wide(r0[i]) + w1 * wide(r1[i]) + w2 * wide(r2[i]) + w3 * wide(r3[i]);
        }
        for (; e < end; e++) {
            const number *row = rows + index[e] * width;
            for (int64_t i = 0; i < width; i++) total[i] += weights[e] * wide(row[i]);
        }
    }
}

/* out[e] = the product of the entry's row with its bag's row of `along`. */
void bag_products(const number *rows, const int64_t *index, const number *along, const int64_t *offsets, int64_t bags,
                  int64_t width, float *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
    for (int64_t b = 0; b < bags; b++)
        for (int64_t e = offsets[b]; e < offsets[b + 1]; e++) {
            if (e + AT_ONCE < offsets[b + 1]) fetch(rows + index[e + AT_ONCE] * width, width);
            const number *row = rows + index[e] * width, *with = along + b * width;
            float total = 0;
#pragma omp simd reduction(+ : total)
            for (int64_t i = 0; i < width; i++) total += wide(row[i]) * wide(with[i]);
            out[e] = total;
        }
}
