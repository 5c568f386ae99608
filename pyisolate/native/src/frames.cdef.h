/* Gives the module of this name a function `call_apart`. */
int frames_add(const char *module);
