// Generates on a host: the values of few devices (kernels/synthesize_factors.py says what) and the slabs of a batch
// (kernels/compose_weights.py says what, kernels/rounding.py how it is rounded).
//
// No header of Python's is needed; kernels/host_slabs.py calls this through ctypes, which lets go of the interpreter's
// lock meanwhile. Compiled without fast-math: NaN and infinity must be seen.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// One build for the wide registers of each generation of x86-64, chosen when the library is loaded.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

#define INLINE static inline __attribute__((always_inline))

enum { FLOAT32, FLOAT16, INT8, GAP };

// A row of Plans.host_arrays. Offsets into values and base count elements, or are -1; targets count bytes. A gap of
// `columns` bytes is zeroed.
typedef struct {
    int64_t source, base, left, right, rows, columns, rank, target, scale_target, dtype;
} Array;

typedef struct {
    int64_t first_array, arrays, pitch;
} Plan;

INLINE uint32_t bits_of(float number) {
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

INLINE float float_of(uint32_t bits) {
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

// Rounds half to even, by arithmetic alone, so that a loop over it becomes vector instructions.
INLINE uint16_t float16_of(float number) {
    const uint32_t bits = bits_of(number), magnitude = bits & 0x7fffffff, sign = (bits >> 16) & 0x8000;
    // subnormal: adding 1/2 aligns the last place of float16 with that of float32
    const uint32_t small = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000;
    // normal: the exponent's bias changes, and what is cut off is rounded half to even
    const uint32_t normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    const uint32_t finite = magnitude < 0x38800000 ? small : normal;
    const uint32_t special = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    return (uint16_t)(sign | (magnitude >= 0x477ff000 ? special : finite));
}

INLINE float float_of_float16(uint16_t half) {  // neither negative nor infinite
    const uint32_t exponent = half >> 10, fraction = half & 0x3ff;
    return exponent ? float_of(((exponent + 112) << 23) | (fraction << 13)) : (float)fraction * 0x1p-24f;
}

// Returns base + direct + product of one row: in the scratch row, or where it lies already.
INLINE const float *sum_row(const Array *a, int64_t i, const float *values, const float *base, float *sums) {
    const int64_t K = a->columns, M = a->rows;
    const float *direct = a->source >= 0 ? values + a->source + i * K : NULL;
    const float *total = a->base >= 0 ? base + a->base + i * K : NULL;
    if (direct && total) {
        for (int64_t j = 0; j < K; j++) sums[j] = total[j] + direct[j];
        total = sums;
    } else if (direct) {
        total = direct;
    } else if (!total) {
        memset(sums, 0, (size_t)K * sizeof *sums);
        total = sums;
    }
    const float *left = values + a->left + i, *right = values + a->right;
    int64_t r = 0;
    for (; r + 4 <= a->rank; r += 4, left += 4 * M, right += 4 * K, total = sums) {
        const float u0 = left[0], u1 = left[M], u2 = left[2 * M], u3 = left[3 * M];
        const float *v1 = right + K, *v2 = right + 2 * K, *v3 = right + 3 * K;
#pragma GCC ivdep
        for (int64_t j = 0; j < K; j++) sums[j] = total[j] + u0 * right[j] + u1 * v1[j] + u2 * v2[j] + u3 * v3[j];
    }
    for (; r < a->rank; r++, left += M, right += K, total = sums) {
        const float u = left[0];
#pragma GCC ivdep
        for (int64_t j = 0; j < K; j++) sums[j] = total[j] + u * right[j];
    }
    return total;
}

// Bits of the largest magnitude; as integers they are ordered like the floats, with infinity and then NaN on top.
INLINE uint32_t largest_magnitude(const float *row, int64_t K) {
    int32_t largest = 0;
    for (int64_t j = 0; j < K; j++) {
        const int32_t magnitude = (int32_t)(bits_of(row[j]) & 0x7fffffff);
        largest = magnitude > largest ? magnitude : largest;
    }
    return (uint32_t)largest;
}

// Stores one row; returns whether all of it is finite, before and after the cast.
INLINE int store_row(const Array *a, int64_t i, const float *restrict row, uint8_t *restrict slab) {
    const int64_t K = a->columns;
    const uint32_t largest = largest_magnitude(row, K);
    if (a->dtype == FLOAT32) {
        memcpy(slab + a->target + i * K * 4, row, K * 4);
        return largest < 0x7f800000;
    }
    if (a->dtype == FLOAT16) {
        uint16_t *restrict halves = (uint16_t *)(slab + a->target) + i * K;
        for (int64_t j = 0; j < K; j++) halves[j] = float16_of(row[j]);
        return largest < bits_of(65520.0f);
    }
    const int is_finite = largest < bits_of(65520.0f * 127.0f);
    uint16_t half = is_finite ? float16_of(float_of(largest) / 127.0f) : 0;
    if (!half) half = 1;  // 2^-24, the smallest
    ((uint16_t *)(slab + a->scale_target))[i] = half;
    const float scale = float_of_float16(half);
    int8_t *restrict quanta = (int8_t *)(slab + a->target) + i * K;
    for (int64_t j = 0; j < K; j++) {
        float quantum = row[j] / scale;
        quantum = quantum > 127.0f ? 127.0f : quantum;
        quantum = quantum < -127.0f ? -127.0f : quantum;
        // the lowest byte of 1.5 * 2^23 + q is q, rounded half to even
        quanta[j] = (int8_t)bits_of(quantum + 12582912.0f);
    }
    return is_finite;
}

// values[b] = bias + transposed^T embeddings[b]; rows of P that stay in the cache, D of them read for every device. A BLAS
// is faster where B is large; its way in costs more than the work where it is small.
FOR_EACH_PROCESSOR void duet_synthesize(
    const float *embeddings, const float *transposed, const float *bias, int64_t B, int64_t D, int64_t P, float *values
) {
    for (int64_t b = 0; b < B; b++, embeddings += D, values += P) {
        memcpy(values, bias, (size_t)P * sizeof *values);
        int64_t d = 0;
        for (; d + 4 <= D; d += 4) {
            const float z0 = embeddings[d], z1 = embeddings[d + 1], z2 = embeddings[d + 2], z3 = embeddings[d + 3];
            const float *w0 = transposed + d * P, *w1 = w0 + P, *w2 = w1 + P, *w3 = w2 + P;
#pragma GCC ivdep
            for (int64_t p = 0; p < P; p++) values[p] += z0 * w0[p] + z1 * w1[p] + z2 * w2[p] + z3 * w3[p];
        }
        for (; d < D; d++) {
            const float z = embeddings[d], *w = transposed + d * P;
#pragma GCC ivdep
            for (int64_t p = 0; p < P; p++) values[p] += z * w[p];
        }
    }
}

// Writes B slabs one after the other; clears the flags of devices that are not finite. Returns 0, or -1 if there is no
// memory for a row.
FOR_EACH_PROCESSOR int duet_write_slabs(
    const float *values, int64_t values_stride, const float *base, const Array *arrays, const Plan *plans,
    const int32_t *chosen, int64_t B, int64_t longest_row, uint8_t *slabs, uint8_t *flags
) {
    float *sums = malloc((size_t)(longest_row > 0 ? longest_row : 1) * sizeof *sums);
    if (!sums) return -1;
    for (int64_t b = 0; b < B; b++, values += values_stride) {
        const Plan *plan = plans + chosen[b];
        int is_finite = 1;
        for (const Array *a = arrays + plan->first_array; a < arrays + plan->first_array + plan->arrays; a++) {
            if (a->dtype == GAP) {
                memset(slabs + a->target, 0, a->columns);
                continue;
            }
            for (int64_t i = 0; i < a->rows; i++) is_finite &= store_row(a, i, sum_row(a, i, values, base, sums), slabs);
        }
        flags[b] = (uint8_t)is_finite;
        slabs += plan->pitch;
    }
    free(sums);
    return 0;
}
