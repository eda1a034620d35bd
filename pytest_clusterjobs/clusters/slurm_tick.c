/*
 * Loaded into slurmctld alone: its background loop turns every CLUSTERJOBS_TICK_MS milliseconds, not every second.
 *
 * The loop is where queued batch jobs are started. Slurm 22.05 waits in it with usleep() of a tenth of a second, ten
 * times; later versions wait once, up to a second, on a condition variable. Both waits are shortened; nothing else is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000LL
#define SLICE_US 100000
/* A deadline "in one second" is computed shortly before the wait: nothing above this is the loop's. */
#define LONGEST_NS (SECOND_NS + SECOND_NS / 20)

typedef int (*timedwait_fn)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

static timedwait_fn next_timedwait;
static long long tick_ns = SECOND_NS;

__attribute__((constructor)) static void set_up(void)
{
    const char *text = getenv("CLUSTERJOBS_TICK_MS");
    long long ms = text ? atoll(text) : 0;

    if (ms > 0 && ms <= 1000)
        tick_ns = ms * 1000000LL;
#if defined(__GLIBC__) && defined(__x86_64__)
    /* The unversioned symbol of x86-64 is the one of 2.2.5, with another layout of pthread_cond_t. */
    next_timedwait = (timedwait_fn)dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
#endif
    if (!next_timedwait)
        next_timedwait = (timedwait_fn)dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    unsetenv("LD_PRELOAD"); /* what slurmctld starts keeps its own time */
}

static int sleep_ns(long long ns)
{
    struct timespec span = {.tv_sec = ns / SECOND_NS, .tv_nsec = ns % SECOND_NS};

    return nanosleep(&span, NULL);
}

int usleep(useconds_t us)
{
    return sleep_ns(us == SLICE_US ? tick_ns / 10 : us * 1000LL);
}

int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *deadline)
{
    struct timespec now, sooner;
    long long left, until;

    clock_gettime(CLOCK_REALTIME, &now);
    left = (deadline->tv_sec - now.tv_sec) * SECOND_NS + (deadline->tv_nsec - now.tv_nsec);
    if (left <= tick_ns || left > LONGEST_NS)
        return next_timedwait(cond, mutex, deadline);
    until = now.tv_nsec + tick_ns;
    sooner.tv_sec = now.tv_sec + until / SECOND_NS;
    sooner.tv_nsec = until % SECOND_NS;
    return next_timedwait(cond, mutex, &sooner);
}
