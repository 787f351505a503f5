/* Runs a target without libFuzzer, over inputs from standard input: each a length, 4 bytes in the machine's order, and so
 * many bytes. Prints how many there were. */
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
