// Generates on a host: the values of a small batch (kernels/synthesize_factors.py says what) and the slabs of any
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

// What kernels/host_generation.py binds. `packed` is the decoder weight as [P / LANES, D, LANES], so that it is read from
// end to end; P, and with it packed and bias, is filled up with zeros to a multiple of LANES.
typedef struct {
    const float *packed, *bias, *base;
    const Array *arrays;
    const Plan *plans;
    int64_t D, P, longest_row;
} Generation;

enum { LANES = 16, HALF = LANES / 2, DEVICES_AT_ONCE = 4 };
typedef float Half __attribute__((vector_size(HALF * sizeof(float)), aligned(sizeof(float)), may_alias));

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

// values[b] = bias + weight embeddings[b] for n devices; their sums stay in registers, and n is known where this is inlined.
INLINE void synthesize(const Generation *g, const float *embeddings, float *values, const int n) {
    const float *columns = g->packed;
    for (int64_t p = 0; p < g->P; p += LANES) {
        Half first[DEVICES_AT_ONCE], second[DEVICES_AT_ONCE];
        for (int b = 0; b < n; b++) {
            first[b] = *(const Half *)(g->bias + p);
            second[b] = *(const Half *)(g->bias + p + HALF);
        }
        for (int64_t d = 0; d < g->D; d++, columns += LANES) {
            for (int b = 0; b < n; b++) {
                first[b] += embeddings[b * g->D + d] * *(const Half *)columns;
                second[b] += embeddings[b * g->D + d] * *(const Half *)(columns + HALF);
            }
        }
        for (int b = 0; b < n; b++) {
            *(Half *)(values + b * g->P + p) = first[b];
            *(Half *)(values + b * g->P + p + HALF) = second[b];
        }
    }
}

// Writes the slab of one device; returns whether all of it is finite.
INLINE int write_slab(
    const Array *first, int64_t arrays, const float *values, const float *base, float *sums, uint8_t *slab
) {
    int is_finite = 1;
    for (const Array *a = first; a < first + arrays; a++) {
        if (a->dtype == GAP) {
            memset(slab + a->target, 0, a->columns);
            continue;
        }
        for (int64_t i = 0; i < a->rows; i++) is_finite &= store_row(a, i, sum_row(a, i, values, base, sums), slab);
    }
    return is_finite;
}

// Writes B slabs one after the other, and a flag for each: whether it is finite. Returns 0, or -1 if there is no memory
// for a row.
FOR_EACH_PROCESSOR int duet_write_slabs(
    const float *values, int64_t values_stride, const float *base, const Array *arrays, const Plan *plans,
    const int32_t *chosen, int64_t B, int64_t longest_row, uint8_t *slabs, uint8_t *flags
) {
    float *sums = malloc((size_t)(longest_row > 0 ? longest_row : 1) * sizeof *sums);
    if (!sums) return -1;
    for (int64_t b = 0; b < B; b++, values += values_stride) {
        const Plan *plan = plans + chosen[b];
        flags[b] = (uint8_t)write_slab(arrays + plan->first_array, plan->arrays, values, base, sums, slabs);
        slabs += plan->pitch;
    }
    free(sums);
    return 0;
}

// Generates B slabs, `slab_bytes` in all, from embeddings [B, D]; the flags follow them. Returns -1 if there is no memory
// for the values of four devices.
FOR_EACH_PROCESSOR int duet_generate(
    const Generation *g, const float *embeddings, const int32_t *chosen, int64_t B, uint8_t *slabs, int64_t slab_bytes
) {
    uint8_t *flags = slabs + slab_bytes;
    float *values = malloc((size_t)(DEVICES_AT_ONCE * g->P + g->longest_row + 1) * sizeof *values);
    if (!values) return -1;
    for (int64_t b = 0; b < B; b += DEVICES_AT_ONCE, embeddings += DEVICES_AT_ONCE * g->D) {
        const int64_t n = B - b < DEVICES_AT_ONCE ? B - b : DEVICES_AT_ONCE;
        switch (n) {
            case 1: synthesize(g, embeddings, values, 1); break;
            case 2: synthesize(g, embeddings, values, 2); break;
            case 3: synthesize(g, embeddings, values, 3); break;
            default: synthesize(g, embeddings, values, DEVICES_AT_ONCE);
        }
        for (int64_t i = 0; i < n; i++) {
            const Plan *plan = g->plans + chosen[b + i];
            float *sums = values + DEVICES_AT_ONCE * g->P;
            flags[b + i] = (uint8_t)write_slab(
                g->arrays + plan->first_array, plan->arrays, values + i * g->P, g->base, sums, slabs
            );
            slabs += plan->pitch;
        }
    }
    free(values);
    return 0;
}
