/* A CUDA driver without a GPU: device memory is host memory, copies happen at once. It checks what the
   real one would (a current context, the right stream), tells of launches on standard error, and reports at
   exit what was not given back. A module's image is the name of its one kernel, with the parameters
   (pointer, int, float).
   Results are CUresult: 0 success, 1 invalid value, 2 out of memory, 100 no device, 201 invalid context,
   400 invalid handle, 500 not found. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef int R;
static long live_device, live_host, live_streams, live_contexts, depth, live_modules, live_graphs, live_events;
static int capturing;
#define FIRST 0x5678
static long all_streams;
static int known(void *s) { return (long)s >= FIRST && (long)s < FIRST + all_streams; }
static void report(void) {
  fprintf(stderr, "device=%ld host=%ld streams=%ld contexts=%ld depth=%ld modules=%ld graphs=%ld events=%ld\n",
          live_device, live_host, live_streams, live_contexts, depth, live_modules, live_graphs, live_events);
}
R cuInit(unsigned flags) { atexit(report); return getenv("FAKE_CUDA_NO_DEVICE") ? 100 : 0; }
R cuDeviceGetCount(int *n) { *n = 1; return 0; }
R cuDeviceGet(int *d, int i) { *d = i; return 0; }
R cuDeviceGetName(char *name, int size, int d) { snprintf(name, size, "Fake GPU"); return 0; }
R cuDeviceGetAttribute(int *value, int which, int d) { *value = which == 75 ? 8 : which == 76 ? 7 : 0; return 0; }
R cuDevicePrimaryCtxRetain(void **c, int d) { live_contexts++; *c = (void *)0x1234; return 0; }
R cuDevicePrimaryCtxRelease_v2(int d) { live_contexts--; return 0; }
R cuCtxPushCurrent_v2(void *c) { if (c != (void *)0x1234) return 201; depth++; return 0; }
R cuCtxPopCurrent_v2(void **c) { if (depth == 0) return 201; depth--; *c = (void *)0x1234; return 0; }
R cuStreamCreate(void **s, unsigned flags) { if (!depth || flags != 1) return 1; live_streams++; *s = (void *)(FIRST + all_streams++); return 0; }
R cuStreamDestroy_v2(void *s) { if (!known(s)) return 400; if (!--live_streams) all_streams = 0; return 0; }
R cuStreamSynchronize(void *s) { return capturing ? 900 : known(s) ? 0 : 400; }
R cuStreamWaitEvent(void *s, void *e, unsigned flags) { return flags ? 1 : known(s) ? 0 : 400; }
R cuMemGetInfo_v2(size_t *left, size_t *all) { *left = 1u << 30; *all = 1u << 31; return 0; }
R cuMemAlloc_v2(void **p, size_t n) { if (!depth) return 201; if (n > (1u << 30)) return 2; live_device++; *p = malloc(n); return 0; }
R cuMemFree_v2(void *p) { live_device--; free(p); return 0; }
R cuMemHostAlloc(void **p, size_t n, unsigned flags) { if (!depth) return 201; if (n > (1u << 30)) return 2; live_host++; *p = malloc(n); return 0; }
R cuMemFreeHost(void *p) { live_host--; free(p); return 0; }
R cuMemcpyHtoDAsync_v2(void *d, const void *h, size_t n, void *s) { if (!known(s)) return 400; memcpy(d, h, n); return 0; }
R cuMemcpyDtoHAsync_v2(void *h, void *d, size_t n, void *s) { if (!known(s)) return 400; memcpy(h, d, n); return 0; }
R cuMemsetD8Async(char *d, unsigned char c, size_t n, void *s) { if (s != (void *)0x5678) return 400; memset(d, c, n); return 0; }
R cuModuleLoadData(void **m, const char *image) { if (!depth) return 201; if (image[0] == '?') return 200; live_modules++; *m = strdup(image); return 0; }
R cuModuleUnload(void *m) { live_modules--; free(m); return 0; }
R cuModuleGetFunction(void **f, char *m, const char *name) { if (strcmp(m, name)) return 500; *f = m; return 0; }
R cuFuncSetAttribute(char *f, int which, int value) { fprintf(stderr, "attribute %d of %s = %d\n", which, f, value); return 0; }
R cuLaunchKernel(char *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *s, void **p, void **extra) {
  if (!depth) return 201;
  if (s != (void *)0x5678) return 400;
  fprintf(stderr, "%s %s grid %u %u %u block %u %u %u shared %u arguments %p %d %g\n", capturing ? "capture" : "launch",
          f, gx, gy, gz, bx, by, bz, shared, *(void **)p[0], *(int *)p[1], *(float *)p[2]);
  return 0;
}
R cuStreamBeginCapture_v2(void *s, int mode) { if (s != (void *)0x5678 || capturing || mode != 1) return 1; capturing = 1; return 0; }
R cuStreamEndCapture(void *s, void **g) { if (!capturing) return 1; capturing = 0; live_graphs++; *g = (void *)0x9abc; return 0; }
R cuGraphDestroy(void *g) { if (g != (void *)0x9abc) return 1; live_graphs--; return 0; }
R cuGraphInstantiateWithFlags(void **e, void *g, unsigned long long flags) { if (g != (void *)0x9abc || flags) return 1; live_graphs++; *e = (void *)0xdef0; return 0; }
R cuGraphLaunch(void *e, void *s) { if (e != (void *)0xdef0 || s != (void *)0x5678) return 1; fprintf(stderr, "graph\n"); return 0; }
R cuGraphExecDestroy(void *e) { if (e != (void *)0xdef0) return 1; live_graphs--; return 0; }
R cuEventCreate(void **e, unsigned flags) { live_events++; *e = malloc(1); return flags; }
R cuEventRecord(void *e, void *s) { return capturing ? 900 : known(s) ? 0 : 400; }
R cuEventRecordWithFlags(void *e, void *s, unsigned flags) { return capturing && flags == 1 && s == (void *)FIRST ? 0 : 1; }
R cuEventSynchronize(void *e) { return 0; }
R cuEventElapsedTime(float *ms, void *start, void *end) { *ms = start == end ? 0 : 1.5; return 0; }
R cuEventDestroy(void *e) { live_events--; free(e); return 0; }
R cuGetErrorString(int e, const char **text) { *text = e == 2 ? "out of memory" : e == 100 ? "no CUDA-capable device is detected" : "other error"; return 0; }
R cuDriverGetVersion(int *v) { *v = 13000; return 0; }
#define F(name, f) {name, (void *)f}
static struct { const char *name; void *f; } table[] = {
  F("cuInit", cuInit), F("cuDeviceGetCount", cuDeviceGetCount), F("cuDeviceGet", cuDeviceGet), F("cuDeviceGetName", cuDeviceGetName),
  F("cuDeviceGetAttribute", cuDeviceGetAttribute), F("cuDevicePrimaryCtxRetain", cuDevicePrimaryCtxRetain),
  F("cuDevicePrimaryCtxRelease", cuDevicePrimaryCtxRelease_v2), F("cuCtxPushCurrent", cuCtxPushCurrent_v2),
  F("cuCtxPopCurrent", cuCtxPopCurrent_v2), F("cuStreamCreate", cuStreamCreate), F("cuStreamDestroy", cuStreamDestroy_v2),
  F("cuStreamSynchronize", cuStreamSynchronize), F("cuStreamWaitEvent", cuStreamWaitEvent),
  F("cuMemGetInfo", cuMemGetInfo_v2), F("cuEventRecordWithFlags", cuEventRecordWithFlags), F("cuMemAlloc", cuMemAlloc_v2), F("cuMemFree", cuMemFree_v2),
  F("cuMemHostAlloc", cuMemHostAlloc), F("cuMemFreeHost", cuMemFreeHost), F("cuMemcpyHtoDAsync", cuMemcpyHtoDAsync_v2),
  F("cuMemcpyDtoHAsync", cuMemcpyDtoHAsync_v2), F("cuGetErrorString", cuGetErrorString), F("cuDriverGetVersion", cuDriverGetVersion),
  F("cuMemsetD8Async", cuMemsetD8Async), F("cuModuleLoadData", cuModuleLoadData), F("cuModuleUnload", cuModuleUnload),
  F("cuModuleGetFunction", cuModuleGetFunction), F("cuFuncSetAttribute", cuFuncSetAttribute), F("cuLaunchKernel", cuLaunchKernel),
  F("cuStreamBeginCapture", cuStreamBeginCapture_v2), F("cuStreamEndCapture", cuStreamEndCapture), F("cuGraphDestroy", cuGraphDestroy),
  F("cuGraphInstantiateWithFlags", cuGraphInstantiateWithFlags), F("cuGraphLaunch", cuGraphLaunch), F("cuGraphExecDestroy", cuGraphExecDestroy),
  F("cuEventCreate", cuEventCreate), F("cuEventRecord", cuEventRecord), F("cuEventSynchronize", cuEventSynchronize),
  F("cuEventElapsedTime", cuEventElapsedTime), F("cuEventDestroy", cuEventDestroy)};
R cuGetProcAddress_v2(const char *s, void **p, int v, unsigned long long f, int *st) {
  *p = 0;
  for (unsigned i = 0; i < sizeof table / sizeof *table; i++) if (!strcmp(s, table[i].name)) *p = table[i].f;
  if (!strcmp(s, "cuGetProcAddress")) *p = (void *)cuGetProcAddress_v2;
  if (st) *st = *p ? 0 : 1;
  return *p ? 0 : 500;
}
