/* Processor time and memory of the server's processes and of this one. */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PIDS = 64 };
static int pid_count, pids[MAX_PIDS];
static double cpu_then;

static void measure_process(int pid)
{
    if (pid_count < MAX_PIDS) pids[pid_count++] = pid;
}
static double cpu_of_process(int pid)
{
    clockid_t id;
    struct timespec t;
    if (clock_getcpuclockid(pid, &id) || clock_gettime(id, &t)) return 0;
    return t.tv_sec + t.tv_nsec / 1e9;
}
static double cpu_of_all(void)
{
    double sum = 0;
    for (int i = 0; i < pid_count; i++) sum += cpu_of_process(pids[i]);
    return sum;
}
static void begin_cpu_of_server(void) { cpu_then = cpu_of_all(); }
/* seconds since begin_cpu_of_server() */
static double cpu_of_server(void) { return cpu_of_all() - cpu_then; }
static double cpu_of_self(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}
static long memory_of_server(void)
{
    long sum = 0;
    for (int i = 0; i < pid_count; i++) {
        char name[64];
        long total, resident;
        snprintf(name, sizeof name, "/proc/%d/statm", pids[i]);
        FILE *file = fopen(name, "r");
        if (!file) continue;
        if (fscanf(file, "%ld %ld", &total, &resident) == 2) sum += resident * sysconf(_SC_PAGESIZE);
        fclose(file);
    }
    return sum;
}
