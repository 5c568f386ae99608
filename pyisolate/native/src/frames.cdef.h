/* Gives the main interpreter's module of this name functions `call_apart`, `stand_in` and `traced`, if it has that module. */
int frames_add(const char *module);
