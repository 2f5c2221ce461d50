-- For luarocks: the module for stock LuaJIT, as `make install` puts it. `luarocks --lua-version 5.1 make`
rockspec_format = "3.0"
package = "tidepool"
version = "scm-1" -- `make rock` writes that of a release
source = {
  url = "git+file://.",
}
description = {
  summary = "Lua functions in parallel",
  detailed = "Runs Lua functions over many inputs on all cores, with results in the order of the inputs. Needs LuaJIT 2.1 and libuv.",
  license = "MIT",
}
dependencies = {
  "lua == 5.1",
}
external_dependencies = {
  LUAJIT = { header = "luajit-2.1/luajit.h" },
  UV = { header = "uv.h" },
}
build = {
  type = "make",
  build_target = "module",
  install_target = "install-module",
  build_variables = {},
  install_variables = { LUA_LIBDIR = "$(LIBDIR)" },
}
