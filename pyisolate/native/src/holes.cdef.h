void holes_fill(void);
