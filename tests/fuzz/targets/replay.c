/* Runs a target without libFuzzer, on inputs from standard input: each is a length, 4 bytes in the machine's order, and
 * as many bytes. Prints the number of inputs. */
#include "target.h"

int main(void) {
  uint32_t size;
  unsigned long count = 0;
  while (fread(&size, sizeof size, 1, stdin) == 1) {
    uint8_t *input = malloc(size > 0 ? size : 1);
    EXPECT(input != NULL && fread(input, 1, size, stdin) == size);
    LLVMFuzzerTestOneInput(input, size);
    free(input);
    count++;
  }
  printf("%lu\n", count);
  return 0;
}
