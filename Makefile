# Tidepool. `make help` lists what there is to make.
#
# A variant is the same tree compiled in another way into a folder of its own:
#   (none)  build/        what users run
#   check   build/check/  the same with assertions (host/base/invariant.h), which all of the following have too
#   asan    build/asan/   AddressSanitizer, LeakSanitizer, UndefinedBehaviorSanitizer
#   tsan    build/tsan/   ThreadSanitizer
#   fuzz    build/fuzz/   clang's libFuzzer with ASan and UBSan
# Sources are found by wildcards; a changed flag or list of sources rebuilds what depends on it.

VARIANT      ?=
FUZZ_SECONDS ?= 60
SECONDS      ?= 60
PREFIX       ?= /usr/local
LIBDIR       ?= $(PREFIX)/lib
LUA_LIBDIR   ?= $(DESTDIR)$(LIBDIR)/lua/5.1
DESTDIR      ?=

# The version is TP_VERSION of host/tidepool.h; its first number is the library's soname.
VERSION := $(shell sed -n 's/^\#define TP_VERSION "\(.*\)"/\1/p' host/tidepool.h)
MAJOR   := $(firstword $(subst ., ,$(VERSION)))

BUILD := build$(addprefix /,$(VARIANT))
# clang where gcc has no libFuzzer, and where its UBSan cannot write to the same log as its ASan.
CC    := $(if $(filter default,$(origin CC)),$(if $(filter asan fuzz,$(VARIANT)),clang,gcc),$(CC))

# ---- flags ----

LUAJIT_CFLAGS := $(shell pkg-config --cflags luajit)
LUAJIT_SHARED := $(shell pkg-config --libs luajit)
LUAJIT_STATIC := $(shell pkg-config --variable=libdir luajit)/libluajit-5.1.a
UV_STATIC     := $(shell pkg-config --variable=libdir libuv)/libuv_a.a
SANITIZED     := -O1 -fno-omit-frame-pointer

# TP_MALLOC_STATE: Lua states take their memory from malloc, where LeakSanitizer sees it.
MODE_       := -O2
MODE_check  := -O2 -DTP_ASSERTS
MODE_asan   := $(SANITIZED) -DTP_ASSERTS -fsanitize=address,undefined -fno-sanitize-recover=undefined -DTP_MALLOC_STATE
# -fexceptions: a Lua error that passes through a C frame must keep TSan's own call stack right.
MODE_tsan   := $(SANITIZED) -DTP_ASSERTS -fsanitize=thread -fexceptions
MODE_fuzz   := $(SANITIZED) -DTP_ASSERTS -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -DTP_MALLOC_STATE
MODE        := $(MODE_$(VARIANT))

WARNINGS := -Wall -Wextra -Wshadow $(if $(CI),-Werror)
# _GNU_SOURCE is empty, so that a file may define it too.
CPPFLAGS += -D_GNU_SOURCE= -Ihost -Igpu $(LUAJIT_CFLAGS)
# Exceptions: what a C++ program throws passes through, and what is marked with `cleanup` is tidied up then.
# Paths in what is built are from the root of the tree, wherever that lies: equal sources give equal files.
CFLAGS   += -std=c11 -g -ffile-prefix-map=$(CURDIR)=. $(MODE) -fPIC -fvisibility=hidden -fexceptions $(WARNINGS)

# C modules that a script requires (cjson, luv) find the Lua API in the binary: -Wl,-E. ThreadSanitizer's suppressions go by
# library, so there LuaJIT is one.
LUAJIT   := $(if $(filter tsan,$(VARIANT)),$(LUAJIT_SHARED),-Wl,-E $(LUAJIT_STATIC))
LDLIBS   += $(LUAJIT) -luv -ldl -lm -lpthread

# ---- files ----

# Sources lie in folders of any depth. host/program/ is the program's own, and what a stock luajit lacks of it (module.c).
MODULE_ONLY := host/program/module.c host/program/pocl_cache.c host/program/engine_token.c
BINARY_SRC  := $(filter-out host/program/module.c,$(sort $(shell find host/program -name "*.c")))
LIB_SRC     := $(filter-out host/program/%,$(sort $(shell find host gpu -name "*.c")))
TEST_SRC    := $(wildcard tests/c/*_test.c)
FUZZ_SRC    := $(wildcard tests/fuzz/*_fuzz.c)
BENCH_SRC   := $(wildcard bench/*.c)
LUA_SRC     := $(sort $(shell find lua/tidepool gpu -name "*.lua"))

object  = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
LIB_OBJ := $(call object,$(LIB_SRC)) $(BUILD)/obj/lua_modules.o
BIN_OBJ := $(call object,$(BINARY_SRC))
MOD_OBJ := $(call object,$(MODULE_ONLY))
LIB     := $(BUILD)/libtidepool.a
SHARED  := $(BUILD)/libtidepool.so.$(VERSION)
SONAME  := libtidepool.so.$(MAJOR)
MODULE  := $(BUILD)/module/tidepool.so
BINARY  := $(BUILD)/tidepool
TESTS   := $(patsubst tests/c/%.c,$(BUILD)/tests/%,$(TEST_SRC))
FUZZERS := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzzers/%,$(FUZZ_SRC))
ABI     := $(BUILD)/lua/tidepool/base/abi.lua
BENCHES := $(patsubst bench/%.c,$(BUILD)/bench/%,$(BENCH_SRC))

# ---- what users build ----

.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: all binary compile_commands deb dist lib module rock docs install install-module install-cli uninstall tests fuzzers test demo lint check torture asan tsan bench peers site soak fuzz clean help FORCE

all: $(BINARY) $(if $(VARIANT),,lib module) ## build the program, the libraries and the Lua module (default)

lib: $(LIB) $(SHARED) ## build the C library, build/libtidepool.a and .so
module: $(MODULE) ## build the module for stock luajit and Neovim, build/module/tidepool.so
docs: $(BUILD)/reference.md ## write the reference of the Lua API, build/reference.md
site: docs ## write the documentation as static HTML, build/site (needs pandoc)
	scripts/site/make $(BUILD)/site
tests: all $(TESTS) $(BENCHES)
fuzzers: $(FUZZERS)

test: tests ## run all tests of the plain build
	scripts/run-tests

demo: all ## run the main job, examples/digits.lua, on real data
	$(BINARY) run examples/digits.lua

compile_commands: ## write build/compile_commands.json, for editors (needs bear)
	bear --output $(BUILD)/compile_commands.json -- $(MAKE) -B $(LIB) $(BINARY)

lint: all ## check the sources: luacheck, cppcheck, both compilers, house rules
	scripts/checks

# SUITE: what the next targets run, by default all.
check: ## run all tests with assertions
	$(MAKE) VARIANT=check tests
	scripts/run-tests --build build/check --jobs 2 $(SUITE)

# RUNS: how many in each sweep at most, by default as many as there are calls.
torture: ## make each allocation, thread start and system call fail
	$(MAKE) VARIANT=check tests build/check/torture/fail.so
	scripts/torture $(if $(RUNS),--runs $(RUNS))

asan: ## run all tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(MAKE) VARIANT=asan tests
	scripts/run-tests --build build/asan --jobs 2 $(SUITE)

tsan: ## run all tests under ThreadSanitizer
	$(MAKE) VARIANT=tsan tests
	scripts/run-tests --build build/tsan --jobs 2 $(SUITE)

bench: all $(BENCHES) ## print the speed figures
	$(BINARY) --workers 2 bench/run.lua --json $(BUILD)/bench.json

peers: all ## print what worker processes and a cluster cost, beside joblib, concurrent.futures, Ray and Dask, which pip installs below build/
	python3 -m venv $(BUILD)/peers
	$(BUILD)/peers/bin/pip install -q joblib ray distributed
	PEERS_PYTHON=$(BUILD)/peers/bin/python3 $(BINARY) --workers 2 bench/run.lua processes
	PEERS_PYTHON=$(BUILD)/peers/bin/python3 $(BINARY) bench/cluster.lua

# Past its time only when something hangs.
soak: all ## do at random all that there is for SECONDS (60), and see whether anything grows; then serve clients, and see how long a timer waits
	timeout -k 5 $$(($(SECONDS) + 300)) $(BINARY) --workers 3 tests/soak.lua $(SECONDS) $(SEED)
	timeout -k 5 300 $(BINARY) --workers 3 tests/soak_server.lua $(SECONDS) $(SEED)

fuzz: ## run each fuzz target for FUZZ_SECONDS (60)
	$(MAKE) VARIANT=fuzz fuzzers
	scripts/fuzz $(FUZZ_SECONDS)

install: all docs install-cli ## install under PREFIX (/usr/local), libraries in LIBDIR (PREFIX/lib), below DESTDIR if given
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,bin include share/tidepool) $(addprefix $(DESTDIR)$(LIBDIR)/,pkgconfig cmake/tidepool) $(LUA_LIBDIR)
	install $(BINARY) $(DESTDIR)$(PREFIX)/bin/tidepool
	install -m 644 host/tidepool.h $(DESTDIR)$(PREFIX)/include/tidepool.h
	install -m 644 $(LIB) $(DESTDIR)$(LIBDIR)/libtidepool.a
	install -m 644 $(SHARED) $(DESTDIR)$(LIBDIR)/$(notdir $(SHARED))
	ln -sf $(notdir $(SHARED)) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libtidepool.so
	$(call relocatable,scripts/tidepool.pc.in) >$(DESTDIR)$(LIBDIR)/pkgconfig/tidepool.pc
	$(call relocatable,scripts/tidepool-config.cmake.in) >$(DESTDIR)$(LIBDIR)/cmake/tidepool/tidepool-config.cmake
	$(call relocatable,scripts/tidepool-config-version.cmake.in) >$(DESTDIR)$(LIBDIR)/cmake/tidepool/tidepool-config-version.cmake
	install -m 644 $(MODULE) $(LUA_LIBDIR)/tidepool.so
	install -m 644 $(BUILD)/reference.md $(DESTDIR)$(PREFIX)/share/tidepool/reference.md
	for file in $(filter lua/%,$(LUA_SRC)); do install -D -m 644 $$file $(DESTDIR)$(PREFIX)/share/tidepool/$$file || exit 1; done
	install -m 644 $(ABI) $(DESTDIR)$(PREFIX)/share/tidepool/$(ABI:$(BUILD)/%=%)
	$(if $(DESTDIR),,$(tell-loader))

# The loader finds a library in its folders, /usr/local/lib for one, only when its cache has been told.
tell-loader = @if [ "$$(id -u)" = 0 ] && command -v ldconfig >/dev/null; then ldconfig; fi

# A file that lies in LIBDIR/pkgconfig (or, one deeper, LIBDIR/cmake/tidepool), which finds the prefix by the way up from LIBDIR.
relocatable = sed 's|@VERSION@|$(VERSION)|; s|@SONAME@|$(SONAME)|; s|@UP@|'$$(realpath -m --relative-to=$(LIBDIR) $(PREFIX))'|' $(1)

# What belongs to the program alone: its manual page, and completions for shells.
install-cli: all
	install -d $(addprefix $(DESTDIR)$(PREFIX)/share/,man/man1 bash-completion/completions zsh/site-functions fish/vendor_completions.d)
	install -m 644 man/tidepool.1 $(DESTDIR)$(PREFIX)/share/man/man1/tidepool.1
	install -m 644 completions/tidepool.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/tidepool
	install -m 644 completions/_tidepool $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_tidepool
	install -m 644 completions/tidepool.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/tidepool.fish
	install -D -m 644 deploy/tidepool-worker@.service $(DESTDIR)$(PREFIX)/lib/systemd/system/tidepool-worker@.service

# What luarocks runs.
install-module: module
	install -d $(LUA_LIBDIR)
	install -m 644 $(MODULE) $(LUA_LIBDIR)/tidepool.so

uninstall: ## remove what install has put there
	rm -f $(addprefix $(DESTDIR)$(LIBDIR)/,pkgconfig/tidepool.pc libtidepool.a libtidepool.so $(SONAME) $(notdir $(SHARED))) \
	    $(LUA_LIBDIR)/tidepool.so $(addprefix $(DESTDIR)$(PREFIX)/,bin/tidepool include/tidepool.h share/man/man1/tidepool.1 \
	    share/bash-completion/completions/tidepool share/zsh/site-functions/_tidepool share/fish/vendor_completions.d/tidepool.fish \
	    lib/systemd/system/tidepool-worker@.service)
	rm -rf $(DESTDIR)$(PREFIX)/share/tidepool $(DESTDIR)$(LIBDIR)/cmake/tidepool

# ---- what others install ----

PACKAGE := tidepool-$(VERSION)

dist: ## write build/tidepool-VERSION.tar.gz: the sources of HEAD, which build without git
	@mkdir -p build
	git archive --prefix=$(PACKAGE)/ HEAD | gzip -9n >build/$(PACKAGE).tar.gz

# luarocks compares the tarball that it fetches with the sum.
rock: dist ## write build/tidepool-VERSION-1.rockspec, for that tarball at the address URL
	$(if $(URL),,$(error make rock URL=ADDRESS: where build/$(PACKAGE).tar.gz will be))
	sed -e 's|^version = .*|version = "$(VERSION)-1"|' \
	    -e "s|^  url = .*|  url = \"$(URL)\",\n  md5 = \"$$(md5sum <build/$(PACKAGE).tar.gz | cut -d' ' -f1)\",|" \
	    tidepool-scm-1.rockspec >build/$(PACKAGE)-1.rockspec

deb: dist ## build Debian's packages of HEAD, build/deb/*.deb (needs debhelper)
	rm -rf build/deb
	mkdir -p build/deb
	tar -xzf build/$(PACKAGE).tar.gz -C build/deb
	cp build/$(PACKAGE).tar.gz build/deb/tidepool_$(VERSION).orig.tar.gz
	cd build/deb/$(PACKAGE) && dpkg-buildpackage -us -uc -b

binary: $(BUILD)/portable/tidepool ## build a program for copying to other machines, build/portable/tidepool: it needs the C library and its libgcc_s only

# libuv whole and exported, so that a module for it (luv) uses this one.
$(BUILD)/portable/tidepool: $(BIN_OBJ) $(LIB_OBJ) $(BUILD)/stamp/sources
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(BIN_OBJ) $(LIB_OBJ) -Wl,-E $(LUAJIT_STATIC) -Wl,--whole-archive $(UV_STATIC) -Wl,--no-whole-archive -ldl -lm -lpthread -lrt

clean: ## remove everything that was built
	rm -rf build

help: ## list these targets
	@sed -n 's/^\([a-z_]*\):[^#]*## /\1\t/p' Makefile | expand -t 20

# ---- how ----

# A stamp is rewritten only when its text changes, so that what depends on it is rebuilt only then.
define stamp
@mkdir -p $(@D)
@printf '%s\n' '$(1)' | cmp -s - $@ || printf '%s\n' '$(1)' >$@
endef

$(BUILD)/stamp/flags: FORCE
	$(call stamp,$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(LDLIBS))
$(BUILD)/stamp/sources: FORCE
	$(call stamp,$(LIB_SRC) $(BINARY_SRC) $(MODULE_ONLY))
$(BUILD)/stamp/lua: FORCE
	$(call stamp,$(LUA_SRC))

$(BUILD)/obj/%.o: %.c $(BUILD)/stamp/flags
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# Its text is in the object.
$(BUILD)/obj/host/trace/report_page.o: host/trace/page.html

$(BUILD)/obj/lua_modules.o: $(BUILD)/lua_modules.c $(BUILD)/stamp/flags
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/lua_modules.c: scripts/embed scripts/templates.lua $(LUA_SRC) $(ABI) $(BUILD)/stamp/lua
	scripts/embed $@ $(LUA_SRC) $(ABI)

# What C and Lua share is written by a program that knows the headers, and the variant's macros.
$(BUILD)/abi: scripts/abi.c $(BUILD)/stamp/flags
	@mkdir -p $(BUILD)/obj/scripts
	$(CC) $(CPPFLAGS) -std=c11 $(filter -D%,$(MODE)) $(WARNINGS) -MMD -MP -MT $@ -MF $(BUILD)/obj/scripts/abi.d -o $@ $<
$(ABI): $(BUILD)/abi
	@mkdir -p $(@D)
	$< >$@

$(LIB): $(LIB_OBJ) $(BUILD)/stamp/sources
	rm -f $@
	$(AR) rcs $@ $(LIB_OBJ)

# What it exports stands in host/exports.map.
$(SHARED): $(LIB_OBJ) $(BUILD)/stamp/sources host/exports.map
	$(CC) $(CFLAGS) $(LDFLAGS) -shared -Wl,-soname,$(SONAME) -Wl,--version-script=host/exports.map \
	    -o $@ $(LIB_OBJ) $(LUAJIT_SHARED) -luv -ldl -lm -lpthread

# The Lua API comes from the program that loads the module, hence no LuaJIT here; and its names are weak, so that a Lua that lacks some of
# them can load it and be told what is wrong.
$(MODULE): $(MOD_OBJ) $(LIB_OBJ) $(BUILD)/stamp/sources
	@mkdir -p $(@D)
	ld -r -o $(@D)/all.o $(MOD_OBJ) $(LIB_OBJ)
	objcopy --keep-global-symbol=luaopen_tidepool --wildcard --weaken-symbol='lua_*' --weaken-symbol='luaL_*' --weaken-symbol='luaJIT_*' $(@D)/all.o
	$(CC) $(CFLAGS) $(LDFLAGS) -shared -o $@ $(@D)/all.o -luv -ldl -lm -lpthread

$(BUILD)/reference.md: scripts/reference $(LUA_SRC) $(MODULE)
	scripts/reference $@

$(BINARY): $(BIN_OBJ) $(LIB_OBJ) $(BUILD)/stamp/sources
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(BIN_OBJ) $(LIB_OBJ) $(LDLIBS)

# Its own functions stand in for those that allocate.
$(BUILD)/tests/memory_test: LDFLAGS += -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=lua_newstate,--wrap=luaL_newstate,--wrap=luaL_openlibs,--wrap=tp_heap_prepare,--wrap=tp_heap_seal
$(BUILD)/tests/parts_test: LDFLAGS += -Wl,--wrap=realloc
$(BUILD)/tests/widths_test: LDFLAGS += -Wl,--wrap=uv_hrtime,--wrap=uv_cond_timedwait

# It says that LuaJIT does not reach the memory, as on most of arm64.
$(BUILD)/tests/work_test: LDFLAGS += -Wl,--wrap=tp_heap_is_in_reach

$(BUILD)/tests/%: $(BUILD)/obj/tests/c/%.o $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(LIB) $(LDLIBS)

# Preloaded by scripts/torture.
$(BUILD)/torture/%.so: tests/torture/%.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -std=c11 -g -O1 -fPIC $(WARNINGS) -shared -o $@ $< -ldl

$(BUILD)/fuzzers/%: $(BUILD)/obj/tests/fuzz/%.o $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -fsanitize=fuzzer -o $@ $< $(LIB) $(LDLIBS)

# Programs that measure; no code of ours is in them. Always by gcc: OpenMP for clang is another package.
$(BUILD)/bench/%: bench/%.c $(BUILD)/stamp/flags
	@mkdir -p $(@D)
	gcc $(CPPFLAGS) -std=c11 $(if $(findstring gpu,$<),-O3,-O2) $(WARNINGS) -fopenmp -o $@ $< $(LUAJIT) -ldl -lm -lpthread

.SECONDARY:
-include $(shell find $(BUILD)/obj -name "*.d" 2>/dev/null)
