/* A driver without a GPU: "device" memory is the host's, streams run at once, a recording is a list of copies and
 * launches. For tests of what is around NVIDIA's libraries; it proves nothing about NVIDIA's. */
#include <stddef.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int kind; void *a; void *b; size_t n; } Step;
static Step steps[256];
static int count = 0, recording = 0;
void (*fake_launch)(void *) = 0;      /* set by the fake tensorrt: runs a context */
int fake_fail_capture = 0, fake_alive = 0;
static size_t used = 0;
size_t fake_room = 1UL << 40;

static int queued(int kind, void *a, void *b, size_t n) {
  if (recording) { Step s = {kind, a, b, n}; steps[count++] = s; return 0; }
  if (kind == 0) memcpy(a, b, n); else fake_launch(a);
  return 0;
}
int fake_execute(void *context) { return queued(1, context, 0, 0); }

int cuInit(unsigned f) { return getenv("FAKE_CUDA_NONE") ? 100 : 0; }
int cuDriverGetVersion(int *v) { *v = 12060; return 0; }
int cuGetErrorString(int e, const char **s) { *s = e == 2 ? "out of memory" : "no CUDA-capable device is detected"; return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return 0; }
int cuDeviceGetName(char *s, int n, int d) {
  const char *name = getenv("FAKE_CUDA_NAME"); strncpy(s, name ? name : "Pretended GPU", n); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : 7; return 0; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = 8UL << 30; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = &steps; return 0; }
int cuCtxSetCurrent(void *c) { return c == &steps ? 0 : 201; }
int cuMemAlloc_v2(unsigned long long *p, size_t n) {
  if (n > fake_room) return 2;
  *p = (unsigned long long)malloc(n ? n : 1); fake_alive++; used += malloc_usable_size((void *)*p); return 0; }
int cuMemFree_v2(unsigned long long p) { used -= malloc_usable_size((void *)p); free((void *)p); fake_alive--; return 0; }
int cuMemGetInfo_v2(size_t *f, size_t *t) { *t = 8UL << 30; *f = *t - used; return 0; }
int cuMemHostAlloc(void **p, size_t n, unsigned f) { *p = malloc(n ? n : 1); fake_alive++; return 0; }
int cuMemFreeHost(void *p) { free(p); fake_alive--; return 0; }
int cuMemcpyHtoDAsync_v2(unsigned long long d, void *s, size_t n, void *q) { return queued(0, (void *)d, s, n); }
int cuMemcpyDtoHAsync_v2(void *d, unsigned long long s, size_t n, void *q) { return queued(0, d, (void *)s, n); }
int cuStreamCreate(void **s, unsigned f) { *s = malloc(1); fake_alive++; return 0; }
int cuStreamSynchronize(void *s) { return 0; }
int cuStreamDestroy_v2(void *s) { free(s); fake_alive--; return 0; }
int cuStreamBeginCapture_v2(void *s, int m) { recording = 1; count = 0; return 0; }
int cuStreamEndCapture(void *s, void **g) {
  recording = 0;
  if (fake_fail_capture) { *g = 0; return 901; }
  *g = malloc(sizeof steps); memcpy(*g, steps, sizeof steps); return 0; }
int cuGraphInstantiateWithFlags(void **e, void *g, unsigned long long f) {
  *e = malloc(sizeof steps); memcpy(*e, g, sizeof steps); fake_alive++; return 0; }
int cuGraphDestroy(void *g) { free(g); return 0; }
int cuGraphLaunch(void *e, void *s) {
  Step *all = e;
  for (int i = 0; i < 256 && (all[i].a || all[i].b); i++)
    if (all[i].kind == 0) memcpy(all[i].a, all[i].b, all[i].n); else fake_launch(all[i].a);
  return 0; }
int cuGraphExecDestroy(void *e) { free(e); fake_alive--; return 0; }
