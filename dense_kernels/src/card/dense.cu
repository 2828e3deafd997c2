// Products and factors of f32 matrices on a CUDA card, the same bits as on every CPU.
//
// Every element of a product is one chain of fused multiply-adds, from the first step of the inner dimension to the last, and
// every sum of a factor one chain in f64 of products and sums that are rounded each. So nothing here divides an inner dimension
// among threads, and every operation whose rounding matters is named: fmaf, and __dmul_rn and the like, which no compiler
// contracts. Tiles, threads and the order in which blocks run cannot be seen in a result.
//
// The same text is compiled for the card, when the program runs, and for the processor, by the tests (tests/blocks.h).

// Steps of the inner dimension that are in shared memory at once, twice.
#define STEPS 16

// Threads of a block.
#define THREADS 256

// How far rows of a tile lie apart in shared memory: a bit more than they are wide, for the banks.
#define APART(wide) ((wide) + 4)

// What a product gives: itself, or what it leaves of other values.
#define PRODUCT_ITSELF 0
#define OWN_LESS_PRODUCT 1

// Columns that are factored together.
#define BLOCK 128

__device__ void spread(float4 values, float *to) {
    to[0] = values.x;
    to[1] = values.y;
    to[2] = values.z;
    to[3] = values.w;
}

// A part of a tile on its way from the card's memory to shared memory: WIDE rows (or columns) of STEPS steps. NEXT: the steps
// of a row are neighbours, else the rows of a step are. What lies beyond the matrix is replaced by something inside of it: it
// goes into sums that nobody reads.
template <int WIDE, bool NEXT> struct Part {
    float4 values[WIDE * STEPS / 4 / THREADS];

    __device__ void load(const float *matrix, int apart, int first, int rows, int step, int steps) {
#pragma unroll
        for (int i = 0; i < WIDE * STEPS / 4 / THREADS; i++) {
            int at = (int)threadIdx.x + i * THREADS;
            int row, column;
            if (NEXT) {
                row = min(first + at / (STEPS / 4), rows - 1);
                column = min(step + at % (STEPS / 4) * 4, (steps - 1) / 4 * 4);
            } else {
                row = min(step + at / (WIDE / 4), steps - 1);
                column = min(first + at % (WIDE / 4) * 4, (rows - 1) / 4 * 4);
            }
            values[i] = *(const float4 *)(matrix + (size_t)row * apart + column);
        }
    }

    __device__ void store(float *tile) const {
#pragma unroll
        for (int i = 0; i < WIDE * STEPS / 4 / THREADS; i++) {
            int at = (int)threadIdx.x + i * THREADS;
            if (NEXT) {
                float *to = tile + at % (STEPS / 4) * 4 * APART(WIDE) + at / (STEPS / 4);
                to[0] = values[i].x;
                to[APART(WIDE)] = values[i].y;
                to[2 * APART(WIDE)] = values[i].z;
                to[3 * APART(WIDE)] = values[i].w;
            } else {
                *(float4 *)(tile + at / (WIDE / 4) * APART(WIDE) + at % (WIDE / 4) * 4) = values[i];
            }
        }
    }
};

// A tile of HIGH x WIDE elements of out = a b; each thread has (HIGH / 16) x (WIDE / 16) of them, in groups of 4 x 4.
template <int HIGH, int WIDE, bool A_NEXT, bool B_NEXT> struct Tile {
    float sums[HIGH / 16][WIDE / 16];

    __device__ void step(const float *a, const float *b) {
        float left[HIGH / 16], right[WIDE / 16];
        int down = (int)threadIdx.x / 16 * 4, across = (int)threadIdx.x % 16 * 4;
#pragma unroll
        for (int i = 0; i < HIGH / 64; i++)
            spread(*(const float4 *)(a + i * 64 + down), left + i * 4);
#pragma unroll
        for (int j = 0; j < WIDE / 64; j++)
            spread(*(const float4 *)(b + j * 64 + across), right + j * 4);
#pragma unroll
        for (int i = 0; i < HIGH / 16; i++)
#pragma unroll
            for (int j = 0; j < WIDE / 16; j++)
                sums[i][j] = fmaf(right[j], left[i], sums[i][j]);
    }

    __device__ void compute(float *shared, const float *a, int a_apart, const float *b, int b_apart, int rows, int columns,
                            int steps, int row, int column) {
        float *const left = shared, *const right = shared + 2 * STEPS * APART(HIGH);
        Part<HIGH, A_NEXT> of_a;
        Part<WIDE, B_NEXT> of_b;
#pragma unroll
        for (int i = 0; i < HIGH / 16; i++)
#pragma unroll
            for (int j = 0; j < WIDE / 16; j++)
                sums[i][j] = 0.0f;
        if (steps > 0) {
            of_a.load(a, a_apart, row, rows, 0, steps);
            of_b.load(b, b_apart, column, columns, 0, steps);
            of_a.store(left);
            of_b.store(right);
        }
        __syncthreads();
        int now = 0;
        for (int start = 0; start < steps; start += STEPS) {
            bool more = start + STEPS < steps;
            if (more) {
                of_a.load(a, a_apart, row, rows, start + STEPS, steps);
                of_b.load(b, b_apart, column, columns, start + STEPS, steps);
            }
            const float *l = left + now * STEPS * APART(HIGH), *r = right + now * STEPS * APART(WIDE);
            if (start + STEPS <= steps) {
#pragma unroll
                for (int k = 0; k < STEPS; k++)
                    step(l + k * APART(HIGH), r + k * APART(WIDE));
            } else {
                for (int k = 0; k < steps - start; k++)
                    step(l + k * APART(HIGH), r + k * APART(WIDE));
            }
            now ^= 1;
            if (more) {
                of_a.store(left + now * STEPS * APART(HIGH));
                of_b.store(right + now * STEPS * APART(WIDE));
            }
            __syncthreads();
        }
    }

    __device__ void write(float *out, int apart, const float *own, int own_apart, int rows, int columns, int row, int column,
                          int outcome) const {
#pragma unroll
        for (int i = 0; i < HIGH / 16; i++) {
            int down = row + i / 4 * 64 + (int)threadIdx.x / 16 * 4 + i % 4;
#pragma unroll
            for (int j = 0; j < WIDE / 16; j += 4) {
                int across = column + j / 4 * 64 + (int)threadIdx.x % 16 * 4;
                if (down < rows && across < columns) {
                    float values[4];
#pragma unroll
                    for (int l = 0; l < 4; l++) {
                        float sum = sums[i][j + l];
                        if (outcome == OWN_LESS_PRODUCT && across + l < columns)
                            sum = __fsub_rn(own[(size_t)down * own_apart + across + l], sum);
                        values[l] = sum;
                    }
                    float *to = out + (size_t)down * apart + across;
                    if (across + 4 <= columns)
                        *(float4 *)to = make_float4(values[0], values[1], values[2], values[3]);
                    else
                        for (int l = 0; across + l < columns; l++)
                            to[l] = values[l];
                }
            }
        }
    }
};

template <int HIGH, int WIDE, bool A_NEXT, bool B_NEXT>
__device__ void product(float *shared, float *out, int out_apart, const float *own, int own_apart, const float *a, int a_apart,
                        const float *b, int b_apart, int rows, int columns, int steps, int outcome, int upper) {
    int row = (int)blockIdx.y * HIGH, column = (int)blockIdx.x * WIDE;
    // Of a gram matrix only what reaches its diagonal or lies right of it.
    if (upper && row >= column + WIDE)
        return;
    Tile<HIGH, WIDE, A_NEXT, B_NEXT> tile;
    tile.compute(shared, a, a_apart, b, b_apart, rows, columns, steps, row, column);
    tile.write(out, out_apart, own, own_apart, rows, columns, row, column, outcome);
}

// out = a b, or own - a b (`own` may be out). `apart` says how far rows lie apart in memory, of a matrix that is stored by its
// columns how far these do. Matrices begin at multiples of 16 bytes, and so do their rows; of the last group of four values of
// a row all four are there.
#define PRODUCT(NAME, HIGH, WIDE, A_NEXT, B_NEXT, BLOCKS)                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                              \
        NAME(float *out, int out_apart, const float *own, int own_apart, const float *a, int a_apart, const float *b,          \
             int b_apart, int rows, int columns, int steps, int outcome, int upper) {                                          \
        __shared__ float4 shared[2 * STEPS * (APART(HIGH) + APART(WIDE)) / 4];                                                 \
        product<HIGH, WIDE, A_NEXT, B_NEXT>((float *)shared, out, out_apart, own, own_apart, a, a_apart, b, b_apart, rows,     \
                                            columns, steps, outcome, upper);                                                   \
    }

// Names: the tile; whether the steps of a's rows and those of b's columns are neighbours ("n") or lie apart ("t").
PRODUCT(product_128_nn, 128, 128, true, true, 2)
PRODUCT(product_128_nt, 128, 128, true, false, 2)
PRODUCT(product_128_tn, 128, 128, false, true, 2)
PRODUCT(product_128_tt, 128, 128, false, false, 2)
PRODUCT(product_64_nn, 64, 64, true, true, 4)
PRODUCT(product_64_nt, 64, 64, true, false, 4)
PRODUCT(product_64_tn, 64, 64, false, true, 4)
PRODUCT(product_64_tt, 64, 64, false, false, 4)

// Shared memory whose size the one who starts the kernel says.
#ifndef SHARED
#define SHARED(TYPE, NAME) extern __shared__ TYPE NAME[]
#endif

// The factor of a corner and its inverse, both upper triangular, in one square: element (i, k) of the factor is at row k and
// column i, element (k, j) of the inverse at row k and column j + 1, which is beyond the factor's.
#define FACTOR(i, k) both[(k) * (BLOCK + 1) + (i)]
#define INVERSE(k, j) both[(k) * (BLOCK + 1) + (j) + 1]

// The sum of the rounded products of two vectors, one after the other from `first` to `end`, whose values lie so far apart; -0.0
// is the sum of nothing. Only the sums wait for each other: values are read, and products made, some steps ahead.
#define AHEAD 8
__device__ double chain(const double *a, int a_apart, const double *b, int b_apart, int first, int end) {
    double sum = -0.0;
    for (int k = first; k < end; k += AHEAD) {
        double products[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int at = min(k + i, end - 1);
            products[i] = __dmul_rn(a[at * a_apart], b[at * b_apart]);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            sum = k + i < end ? __dadd_rn(sum, products[i]) : sum;
    }
    return sum;
}

// One block: the factor of the n x n matrix s, n at most BLOCK, into what is on and above the diagonal of r, and the factor's
// inverse, n x n, zeros below the diagonal. In f64, element by element. `work`: BLOCK (BLOCK + 1) values of memory, or nothing:
// then they are in shared memory.
//
// One half of the threads makes a column of the factor, the other, one column behind, a row of the inverse. `failed` takes
// first + the column whose pivot is no positive number, unless it has one already (it is no negative number then), and nothing
// is done.
extern "C" __global__ void __launch_bounds__(2 * BLOCK)
    corner(const float *s, int s_apart, int n, float *r, int r_apart, float *inverse, int inverse_apart, double *work, int first,
           int *failed) {
    SHARED(double, shared);
    double *both = work ? work : shared;
    int lane = (int)threadIdx.x % BLOCK;
    bool makes_factor = threadIdx.x < BLOCK;
    if (*failed >= 0)
        return;
    __syncthreads();
    for (int j = n - 1; j >= -1; j--) {
        double left = 0.0;
        if (makes_factor && lane <= j) {
            double rest = chain(&FACTOR(lane, 0), BLOCK + 1, &FACTOR(j, 0), BLOCK + 1, j + 1, n);
            left = __dadd_rn((double)s[(size_t)lane * s_apart + j], -rest);
            if (lane == j) {
                // No number, nothing and infinity are not positive.
                if (!(left > 0.0 && left <= 1.7976931348623157e308))
                    *failed = first + j;
                FACTOR(j, j) = __dsqrt_rn(left);
            }
        } else if (!makes_factor && j + 1 <= lane && lane < n) {
            int i = j + 1;
            double value = 1.0;
            if (i < lane)
                value = -chain(&FACTOR(i, 0), BLOCK + 1, &INVERSE(0, lane), BLOCK + 1, i + 1, lane + 1);
            INVERSE(i, lane) = __ddiv_rn(value, FACTOR(i, i));
        }
        __syncthreads();
        if (*failed >= 0)
            return;
        if (makes_factor && lane < j)
            FACTOR(lane, j) = __ddiv_rn(left, FACTOR(j, j));
        __syncthreads();
    }
    if (lane >= n)
        return;
    for (int i = 0; i < n; i++) {
        if (!makes_factor)
            inverse[(size_t)i * inverse_apart + lane] = i <= lane ? (float)INVERSE(i, lane) : 0.0f;
        else if (i <= lane)
            r[(size_t)i * r_apart + lane] = (float)FACTOR(i, lane);
    }
}

// The inverse of an n x n upper triangular matrix, in f64 but for the result, a thread for each column; what is left of the
// diagonal is not looked at, and becomes zeros. `work`: n x n of memory.
extern "C" __global__ void __launch_bounds__(64)
    invert(const float *matrix, int apart, int n, float *inverse, int inverse_apart, double *work) {
    int j = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (j >= n)
        return;
    work[(size_t)j * n + j] = __ddiv_rn(1.0, (double)matrix[(size_t)j * apart + j]);
    for (int i = j - 1; i >= 0; i--) {
        const float *row = matrix + (size_t)i * apart;
        double sum = -0.0;
#pragma unroll 16
        for (int k = i + 1; k <= j; k++)
            sum = __dadd_rn(sum, __dmul_rn((double)row[k], work[(size_t)k * n + j]));
        work[(size_t)i * n + j] = __ddiv_rn(-sum, (double)row[i]);
    }
    for (int i = 0; i < n; i++)
        inverse[(size_t)i * inverse_apart + j] = i <= j ? (float)work[(size_t)i * n + j] : 0.0f;
}
