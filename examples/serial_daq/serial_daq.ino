// A microcontroller as lightloom's serial DAQ. Protocol: docs/reference/serial-daq.md.
//
// As it is, for an Arduino Uno or Nano: 6 inputs A0-A5, 2 PWM outputs (pins 5 and 6; smooth them
// with 10 kOhm and 10 uF), 6 digital lines (pins 7-12), two counters of rising edges (pins 2 and
// 3): 0 for the frames of the input modulator, 1 for those of the weight modulator.
// For another board change the constants. It answers, and says nothing unasked.

#include <Arduino.h>

const char IDENTITY[] =
    "protocol=1 maker=lightloom model=serial-daq serial=1 firmware=1.1 "
    "inputs=6 outputs=2 lines=6 counters=2 bits=10 "
    "in_uv=0:5000000 out_uv=0:5000000 rate_hz=1:1000 samples=256";

const uint8_t INPUT_PINS[] = {A0, A1, A2, A3, A4, A5};
const uint8_t OUTPUT_PINS[] = {5, 6};
const uint8_t LINE_PINS[] = {7, 8, 9, 10, 11, 12};
const uint8_t COUNTER_PINS[] = {2, 3};
const uint8_t INPUTS = sizeof INPUT_PINS, OUTPUTS = sizeof OUTPUT_PINS, LINES = sizeof LINE_PINS;
const uint8_t COUNTERS = sizeof COUNTER_PINS;
const uint32_t FULL_SCALE_UV = 5000000;
const uint32_t SHORTEST_PERIOD_US = 1000, LONGEST_PERIOD_US = 1000000;
const uint16_t MOST_SAMPLES = 256;
const uint8_t NUMBERS_A_LINE = 12;

volatile uint32_t edges[COUNTERS];
uint16_t samples[MOST_SAMPLES];
char line[80];    // what is being heard, from '>' on
uint8_t heard = 0;
uint16_t crc;     // of what is being said

void countEdge0() { edges[0]++; }
void countEdge1() { edges[1]++; }

// --- the checksum: CRC-16/CCITT-FALSE -----------------------------------------------------------

uint16_t crcOf(uint16_t value, char character) {
  value ^= (uint16_t)(uint8_t)character << 8;
  for (uint8_t bit = 0; bit < 8; bit++) {
    value = value & 0x8000 ? (value << 1) ^ 0x1021 : value << 1;
  }
  return value;
}

// --- saying -------------------------------------------------------------------------------------

void say(const char *text) {
  for (; *text; text++) {
    crc = crcOf(crc, *text);
    Serial.write(*text);
  }
}

void sayNumber(uint32_t number) {
  char text[12];
  ultoa(number, text, 10);
  say(text);
}

void begin(const char *tag, const char *kind) {
  Serial.write('<');
  crc = 0xFFFF;
  say(tag);
  say(" ");
  say(kind);
}

void end() {
  const char digits[] = "0123456789ABCDEF";
  uint16_t sum = crc;
  Serial.write('*');
  for (int8_t shift = 12; shift >= 0; shift -= 4) Serial.write(digits[(sum >> shift) & 15]);
  Serial.write('\n');
}

void sayOk(const char *tag) {
  begin(tag, "OK");
  end();
}

void sayOkNumber(const char *tag, uint32_t number) {
  begin(tag, "OK ");
  sayNumber(number);
  end();
}

void sayNo(const char *tag, const char *why) {
  begin(tag, "NO ");
  say(why);
  end();
}

// --- understanding ------------------------------------------------------------------------------

// Take the next word; "" when there is none.
char *nextWord(char **rest) {
  char *word = *rest;
  char *space = strchr(word, ' ');
  if (space) {
    *space = 0;
    *rest = space + 1;
  } else {
    *rest = word + strlen(word);
  }
  return word;
}

// Read a whole number up to a limit; false when it is none, or more.
bool toNumber(const char *word, uint32_t most, uint32_t *number) {
  if (!*word || strlen(word) > 9) return false;
  *number = 0;
  for (; *word; word++) {
    if (*word < '0' || *word > '9') return false;
    *number = *number * 10 + (*word - '0');
  }
  return *number <= most;
}

// --- acting -------------------------------------------------------------------------------------

void scan(const char *tag, char *names, const char *howMany, const char *howOften) {
  uint8_t channels[INPUTS], width = 0;
  uint32_t channel, count, period;
  while (*names) {
    char *comma = strchr(names, ',');
    if (comma) *comma = 0;
    if (width == INPUTS || !toNumber(names, INPUTS - 1, &channel)) return sayNo(tag, "channel");
    channels[width++] = channel;
    names = comma ? comma + 1 : names + strlen(names);
  }
  if (!width) return sayNo(tag, "channel");
  if (!toNumber(howMany, MOST_SAMPLES / width, &count) || !count) return sayNo(tag, "samples");
  if (!toNumber(howOften, LONGEST_PERIOD_US, &period) || period < SHORTEST_PERIOD_US)
    return sayNo(tag, "period");

  uint16_t total = 0;
  uint32_t latest = 0, due = micros();
  for (uint32_t taken = 0; taken < count; taken++, due += period) {
    while ((int32_t)(micros() - due) < 0) {
    }
    uint32_t late = micros() - due;
    if (late > latest) latest = late;
    for (uint8_t i = 0; i < width; i++) samples[total++] = analogRead(INPUT_PINS[channels[i]]);
  }
  for (uint16_t first = 0; first < total; first += NUMBERS_A_LINE) {
    begin(tag, "D ");
    sayNumber(first);
    for (uint16_t i = first; i < total && i < first + NUMBERS_A_LINE; i++) {
      say(" ");
      sayNumber(samples[i]);
    }
    end();
  }
  begin(tag, "OK ");
  sayNumber(total);
  say(" ");
  sayNumber(latest);
  end();
}

void setOutput(const char *tag, const char *which, const char *microvolts) {
  uint32_t output, uv;
  if (!toNumber(which, OUTPUTS - 1, &output)) return sayNo(tag, "output");
  if (!toNumber(microvolts, FULL_SCALE_UV, &uv)) return sayNo(tag, "voltage");
  analogWrite(OUTPUT_PINS[output], (uv / 100 * 255 + FULL_SCALE_UV / 200) / (FULL_SCALE_UV / 100));
  sayOk(tag);
}

void setLine(const char *tag, const char *which, const char *level) {
  uint32_t number, high;
  if (!toNumber(which, LINES - 1, &number)) return sayNo(tag, "line");
  if (!toNumber(level, 1, &high)) return sayNo(tag, "level");
  digitalWrite(LINE_PINS[number], high ? HIGH : LOW);
  pinMode(LINE_PINS[number], OUTPUT);
  sayOk(tag);
}

void getLine(const char *tag, const char *which) {
  uint32_t number;
  if (!toNumber(which, LINES - 1, &number)) return sayNo(tag, "line");
  sayOkNumber(tag, digitalRead(LINE_PINS[number]) == HIGH);
}

void counter(const char *tag, const char *which, bool zero) {
  uint32_t number, now;
  if (!toNumber(which, COUNTERS - 1, &number)) return sayNo(tag, "counter");
  noInterrupts();
  now = edges[number];
  if (zero) edges[number] = 0;
  interrupts();
  if (zero) sayOk(tag);
  else sayOkNumber(tag, now);
}

void obey(char *body) {
  char *rest = body;
  const char *tag = nextWord(&rest), *what = nextWord(&rest);
  char *first = nextWord(&rest), *second = nextWord(&rest), *third = nextWord(&rest);
  if (!strcmp(what, "ID")) {
    begin(tag, "OK ");
    say(IDENTITY);
    end();
  } else if (!strcmp(what, "SCAN")) {
    scan(tag, first, second, third);
  } else if (!strcmp(what, "OUT")) {
    setOutput(tag, first, second);
  } else if (!strcmp(what, "SET")) {
    setLine(tag, first, second);
  } else if (!strcmp(what, "GET")) {
    getLine(tag, first);
  } else if (!strcmp(what, "COUNT")) {
    counter(tag, first, false);
  } else if (!strcmp(what, "ZERO")) {
    counter(tag, first, true);
  } else {
    sayNo(tag, "word");
  }
}

// Obey a line whose checksum is right; to a damaged one there is no answer.
void check() {
  line[heard] = 0;
  char *star = strrchr(line, '*');
  if (line[0] != '>' || !star || strlen(star) != 5) return;
  uint16_t sum = 0xFFFF;
  for (char *at = line + 1; at < star; at++) sum = crcOf(sum, *at);
  if (strtoul(star + 1, NULL, 16) != sum) return;
  *star = 0;
  obey(line + 1);
}

void setup() {
  Serial.begin(115200);
  for (uint8_t i = 0; i < OUTPUTS; i++) {
    pinMode(OUTPUT_PINS[i], OUTPUT);
    analogWrite(OUTPUT_PINS[i], 0);
  }
  for (uint8_t i = 0; i < LINES; i++) pinMode(LINE_PINS[i], INPUT_PULLUP);
  for (uint8_t i = 0; i < COUNTERS; i++) pinMode(COUNTER_PINS[i], INPUT_PULLUP);
  attachInterrupt(digitalPinToInterrupt(COUNTER_PINS[1]), countEdge1, RISING);
  attachInterrupt(digitalPinToInterrupt(COUNTER_PINS[0]), countEdge0, RISING);
}

void loop() {
  while (Serial.available()) {
    char character = Serial.read();
    if (character == '>') heard = 0;
    if (character == '\n') {
      check();
      heard = 0;
    } else if (heard < sizeof line - 1) {
      line[heard++] = character;
    }
  }
}
