/* The C entry points that TensorRT's Python bindings import, on a machine without TensorRT.

   Compiled three times, once for each library that the bindings ask for. There is no builder and no
   parser; the plugin registry is the real one, of the library LEAN ("libnvinfer_lean.so.10"), which
   is small enough to lie on PyPI. */

#include <stddef.h>

#ifdef CORE
#include <dlfcn.h>

void *getPluginRegistry(void) {
    void *library = dlopen(LEAN, RTLD_NOW | RTLD_GLOBAL);
    void *(*real)(void) = library ? (void *(*)(void))dlsym(library, "getPluginRegistry") : NULL;
    return real ? real() : NULL;
}

void *createInferBuilder_INTERNAL(void *logger, int version) { return NULL; }
void *createInferRuntime_INTERNAL(void *logger, int version) { return NULL; }
void *createInferRefitter_INTERNAL(void *engine, void *logger, int version) { return NULL; }
void *getBuilderPluginRegistry(int capability) { return NULL; }
#endif

#ifdef PARSER
void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version) { return NULL; }
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int version) { return NULL; }
int getNvOnnxParserVersion(void) { return 0; }
#endif

#ifdef PLUGINS
int initLibNvInferPlugins(void *logger, const char *space) { return 0; }
#endif
