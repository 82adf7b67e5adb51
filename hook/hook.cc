#include "hook/hook.h"
