// As much of the Arduino core as examples/serial_daq needs, on a computer: Serial is standard input
// and output. Input n reads 100 n + (number of reads so far) mod 100; pin 2 sees one rising edge
// for each level that is written, pin 3 one for each that is high.
#pragma once
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LOW, HIGH };
enum { INPUT, OUTPUT, INPUT_PULLUP };
enum { RISING = 3 };
enum { A0 = 14, A1, A2, A3, A4, A5 };

static void (*onEdge[20])();
static uint8_t levels[20];
static unsigned reads[20];

inline void pinMode(uint8_t pin, uint8_t mode) { if (mode == INPUT_PULLUP) levels[pin] = HIGH; }
inline void digitalWrite(uint8_t pin, uint8_t level) {
  levels[pin] = level;
  if (onEdge[2]) onEdge[2]();
  if (level == HIGH && onEdge[3]) onEdge[3]();
}
inline int digitalRead(uint8_t pin) { return levels[pin]; }
inline int analogRead(uint8_t pin) { return 100 * (pin - A0) + reads[pin]++ % 100; }
inline void analogWrite(uint8_t pin, int value) { levels[pin] = value; }
inline int digitalPinToInterrupt(uint8_t pin) { return pin; }
inline void attachInterrupt(int pin, void (*handler)(), int) { onEdge[pin] = handler; }
inline void noInterrupts() {}
inline void interrupts() {}
inline uint32_t micros() {  // passes by looking: a busy computer is never late
  static uint32_t now = 0;
  return now += 10;
}
inline char *ultoa(unsigned long value, char *text, int) {
  sprintf(text, "%lu", value);
  return text;
}

struct {
  void begin(long) {}
  bool available() {
    fflush(stdout);
    pollfd input = {0, POLLIN, 0};
    return poll(&input, 1, 20) > 0;
  }
  int read() {
    char character;
    if (::read(0, &character, 1) != 1) exit(0);
    return character;
  }
  void write(char character) { putchar(character); }
} Serial;

void setup();
void loop();
int main() {
  setup();
  for (;;) loop();
}
