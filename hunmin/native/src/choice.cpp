// Which instruction set this processor has, of those that were compiled. Compiled once, without any of them.
#define TEXT(x) #x
#define QUOTED(x) TEXT(x)
#define API extern "C" __attribute__((visibility("default")))

API const char* hm_version() { return QUOTED(HUNMIN_VERSION); }

API const char* hm_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#if defined(HAS_AVX512)
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
    return "avx512";
#endif
#if defined(HAS_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) return "avx2";
#endif
#endif
  return "plain";
}
