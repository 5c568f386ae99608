/* Gives the main interpreter's module of this name a function `call_apart`, if it has that module. */
int frames_add(const char *module);
