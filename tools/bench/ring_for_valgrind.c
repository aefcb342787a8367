/* Waits for completions of a ring without blocking in io_uring_enter: valgrind 3.19 runs one thread at
 * a time and does not know that this call blocks, so all others would wait with it for ever.
 * For LD_PRELOAD, beside liburing 2.3. */
#include <errno.h>
#include <liburing.h>
#include <poll.h>

static int submit_and_wait(struct io_uring* ring, unsigned at_least, long timeout_ms) {
  const int submitted = io_uring_submit(ring);
  if (submitted < 0) return submitted;
  for (;;) {
    io_uring_get_events(ring);
    if (io_uring_cq_ready(ring) >= at_least) return submitted;
    if (timeout_ms-- == 0) return -ETIME;
    /* Not of the ring: with DEFER_TASKRUN that reports nothing before its events are got. */
    poll(NULL, 0, 1);
  }
}

int io_uring_submit_and_wait(struct io_uring* ring, unsigned at_least) {
  return submit_and_wait(ring, at_least, -1);
}

int io_uring_submit_and_wait_timeout(struct io_uring* ring, struct io_uring_cqe** first,
                                     unsigned at_least, struct __kernel_timespec* timeout,
                                     sigset_t* signals) {
  (void)first;
  (void)signals;
  return submit_and_wait(
      ring, at_least,
      timeout ? (long)(timeout->tv_sec * 1000 + timeout->tv_nsec / 1000000 + 1) : -1);
}
