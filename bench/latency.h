/* Time in nanoseconds, and latency: a histogram with 64 buckets for each power of two nanoseconds, so within 1.6 %. */
#include <stdint.h>
#include <stdio.h>
#include <time.h>

static const uint64_t SECOND = 1000000000;

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static uint64_t buckets[64 * 64], latency_count, latency_max;
static double latency_sum;

static int bucket_of(uint64_t ns)
{
    if (ns < 64) return ns;
    int power = 63 - __builtin_clzll(ns);
    return (power - 5) * 64 + ((ns >> (power - 6)) & 63);
}
static void add_latency(uint64_t ns)
{
    buckets[bucket_of(ns)]++;
    latency_count++;
    latency_sum += ns;
    if (ns > latency_max) latency_max = ns;
}
static double percentile_us(double part)
{
    uint64_t wanted = part * latency_count, sum = 0;
    int i = 0;
    while (i < 64 * 64 && (sum += buckets[i]) <= wanted) i++;
    if (i < 64) return i / 1e3;
    uint64_t low = (uint64_t)(64 + i % 64) << (i / 64 - 1), middle = low + (1ull << (i / 64 - 1)) / 2;
    return (middle > latency_max ? latency_max : middle) / 1e3;
}
static void print_latency(void)
{
    if (!latency_count) return;
    printf("\"latency_mean\":%.1f,\"latency_p50\":%.1f,\"latency_p90\":%.1f,\"latency_p99\":%.1f,"
           "\"latency_p999\":%.1f,\"latency_max\":%.1f,", latency_sum / latency_count / 1e3, percentile_us(.5),
           percentile_us(.9), percentile_us(.99), percentile_us(.999), latency_max / 1e3);
}
