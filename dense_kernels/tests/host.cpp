// The kernels of the card, compiled for the processor: a program that does what card/driver.rs asks of a card, by commands from
// its standard input. Built by the tests, with -ffp-contract=off.

#include "blocks.h"

#include "../src/card/dense.cu"

static void get(void *to, size_t bytes) {
    if (bytes && fread(to, bytes, 1, stdin) != 1)
        exit(0);
}

static void put(const void *from, size_t bytes) {
    if (bytes)
        fwrite(from, bytes, 1, stdout);
    fflush(stdout);
}

static uint64_t arguments[16];

template <typename T> static T *memory(int i) { return (T *)arguments[i]; }
static int number(int i) { return (int)arguments[i]; }

#define CALL_PRODUCT(NAME)                                                                                                     \
    if (!strcmp(name, #NAME))                                                                                                  \
        return NAME(memory<float>(0), number(1), memory<float>(2), number(3), memory<float>(4), number(5), memory<float>(6),   \
                    number(7), number(8), number(9), number(10), number(11), number(12));

static void call(const char *name) {
    CALL_PRODUCT(product_128_nn)
    CALL_PRODUCT(product_128_nt)
    CALL_PRODUCT(product_128_tn)
    CALL_PRODUCT(product_128_tt)
    CALL_PRODUCT(product_64_nn)
    CALL_PRODUCT(product_64_nt)
    CALL_PRODUCT(product_64_tn)
    CALL_PRODUCT(product_64_tt)
    if (!strcmp(name, "corner"))
        return corner(memory<float>(0), number(1), number(2), memory<float>(3), number(4), memory<float>(5), number(6),
                      memory<double>(7), number(8), memory<int>(9));
    if (!strcmp(name, "invert"))
        return invert(memory<float>(0), number(1), number(2), memory<float>(3), number(4), memory<double>(5));
    fprintf(stderr, "no kernel %s\n", name);
    abort();
}

int main() {
    for (;;) {
        // What, and three numbers that say of what.
        uint64_t command[4];
        get(command, sizeof command);
        switch (command[0]) {
        case 'a': { // memory of so many bytes, full of numbers that are none
            uint64_t address = (uint64_t)aligned_alloc(256, (command[1] + 255) / 256 * 256);
            memset((void *)address, 0xff, command[1]);
            put(&address, sizeof address);
            break;
        }
        case 'f':
            free((void *)command[1]);
            break;
        case 'u':
            get((void *)command[1], command[2]);
            break;
        case 'd':
            put((void *)command[1], command[2]);
            break;
        case 'l': { // a kernel: blocks across and down, threads; its name, how many arguments, and these
            char name[32];
            uint64_t count;
            get(name, sizeof name);
            get(&count, sizeof count);
            get(arguments, count * sizeof *arguments);
            run_grid(command[1], command[2], command[3], [&] { call(name); });
            break;
        }
        default:
            fprintf(stderr, "no command %d\n", (int)command[0]);
            abort();
        }
    }
}
