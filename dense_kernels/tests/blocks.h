// Blocks and threads of a CUDA kernel as loops of one thread of the processor, for tests without a card.
//
// Every thread of a block has a stack of its own and runs until it comes to __syncthreads() or ends; then the next one runs. So
// a barrier is a barrier, and a thread that reads what another writes without one in between reads what was there before, or
// not, by the order in which threads are taken: forwards in even blocks, backwards in odd ones.

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <functional>

struct float4 {
    float x, y, z, w;
};

struct Place {
    unsigned x, y, z;
};

static Place threadIdx, blockIdx, blockDim;

#define __global__
#define __device__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define SHARED(TYPE, NAME) static TYPE NAME[200 << 10]

// Of a thread: what it needs for its calls.
static const size_t STACK = 64 << 10;
static ucontext_t loop, threads[1024];
static bool ended[1024];
static unsigned running;

static void __syncthreads() {
    swapcontext(&threads[running], &loop);
    threadIdx = {running, 0, 0};
}

static const std::function<void()> *body;

static void one_thread() {
    (*body)();
    ended[running] = true;
    swapcontext(&threads[running], &loop);
}

static void run_block(unsigned count, bool backwards) {
    static char *stacks = (char *)malloc(1024 * STACK);
    for (unsigned i = 0; i < count; i++) {
        ended[i] = false;
        getcontext(&threads[i]);
        threads[i].uc_stack.ss_sp = stacks + i * STACK;
        threads[i].uc_stack.ss_size = STACK;
        makecontext(&threads[i], one_thread, 0);
    }
    for (bool more = true; more;) {
        unsigned done = 0;
        for (unsigned i = 0; i < count; i++) {
            running = backwards ? count - 1 - i : i;
            threadIdx = {running, 0, 0};
            swapcontext(&loop, &threads[running]);
            done += ended[running];
        }
        if (done != 0 && done != count) {
            fprintf(stderr, "%u of %u threads ended while the others wait at a barrier\n", done, count);
            abort();
        }
        more = done == 0;
    }
}

static void run_grid(unsigned wide, unsigned high, unsigned count, const std::function<void()> &kernel) {
    body = &kernel;
    blockDim = {count, 1, 1};
    for (unsigned y = 0; y < high; y++)
        for (unsigned x = 0; x < wide; x++) {
            blockIdx = {x, y, 0};
            run_block(count, (x + y) % 2);
        }
}

static inline int min(int a, int b) { return a < b ? a : b; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return sqrt(a); }
