/* What the load generators share: clock, samples, sockets, a plain WebSocket client. A failure ends the
 * process. */
#ifndef KALAMDB_BENCH_CLIENT_H
#define KALAMDB_BENCH_CLIENT_H

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

uint64_t now_us(void); /* monotonic */
__attribute__((format(printf, 1, 2), noreturn)) void fail(const char *fmt, ...);

/* Samples of one measurement; report prints them as a JSON object. */
void add_sample(uint64_t us);
void clear_samples(void);
void report(const char *what, double seconds, uint64_t done, uint64_t errors);

int dial(int port);
/* Also on a non-blocking socket. */
void write_all(int fd, const char *p, size_t n);

void ws_open(int fd, int port, const char *token);
void ws_send(int fd, const char *text);
/* One text frame into `out` (blocking), NUL-terminated. */
void ws_read(int fd, char *out, size_t size);

#endif
