--- Devices: listing them, what `gpu = ...` matches, and machines without any.

local cjson = require "cjson"
local needs = require "tests.support_device"
local shell = require "tests.cli.shell"
local support = require "tests.support"
require "tidepool"
local core = require "tidepool.core" -- there once the module is

local contains, run = support.contains, shell.run

local there = needs.list
local on_device = needs.on_device(it, pending)

local real_devices = core.device.list

local function back_here()
  core.device.list = real_devices
end

--- tidepool.gpu as it is on a machine with these devices, until the end of the test, which calls
-- back_here.
local function gpu_with(devices, why)
  local real_gpu = package.loaded["tidepool.device.gpu"]
  core.device.list = function() return devices, why end
  package.loaded["tidepool.device.gpu"] = nil
  local gpu = require "tidepool.device.gpu"
  package.loaded["tidepool.device.gpu"] = real_gpu
  return gpu
end

local function device(name, kind, platform, vendor, units)
  return { name = name, type = kind, platform = platform, vendor = vendor, compute_units = units or 8, memory = 2 ^ 30, unified = kind == "cpu" }
end

local function machine()
  return gpu_with {
    device("pthread-AMD EPYC", "cpu", "Portable Computing Language", "AuthenticAMD", 64),
    device("NVIDIA H200", "gpu", "NVIDIA CUDA", "NVIDIA Corporation", 132),
    device("NVIDIA H200", "gpu", "NVIDIA CUDA", "NVIDIA Corporation", 132),
    device("gfx90a", "gpu", "AMD Accelerated Parallel Processing", "Advanced Micro Devices, Inc.", 104),
  }
end

describe("the devices", function()
  after_each(back_here)

  on_device("are listed with what one chooses by", function()
    local d = there[1]
    assert.is_string(d.name)
    assert.is_string(d.platform)
    assert.is_true(d.type == "cpu" or d.type == "gpu" or d.type == "accelerator")
    assert.is_true(d.compute_units >= 1 and d.memory > 0)
    assert.is_boolean(d.fp64)
    contains(d.version, "OpenCL")
  end)

  on_device("are what `tidepool devices` prints", function()
    local done = run "$T devices"
    assert.equal(0, done.code)
    contains(done.stdout, there[1].name, there[1].platform, "compute units")
    local listed = cjson.decode(run("$T devices --json").stdout)
    assert.equal(#there, #listed)
    assert.equal(there[1].name, listed[1].name)
    assert.equal(there[1].memory, listed[1].memory)
  end)

  it("come the best first", function()
    local types = {}
    for i, d in ipairs(machine().devices()) do types[i] = d.type .. " " .. d.number end
    assert.same({ "gpu 2", "gpu 3", "gpu 4", "cpu 1" }, types)
  end)
end)

describe("gpu = ...", function()
  after_each(back_here)

  local function numbers(spec)
    local list = {}
    for i, d in ipairs(machine().match(spec, "f") or {}) do list[i] = d.number end
    return list
  end

  it("is any device, a type, a maker, or a part of a name", function()
    assert.same({ 2 }, numbers(true))
    assert.same({ 2 }, numbers "any")
    assert.same({ 1 }, numbers "cpu")
    assert.same({ 2 }, numbers "gpu")
    assert.same({ 2 }, numbers "h200")
    assert.same({ 2 }, numbers "nvidia")
    assert.same({ 1 }, numbers "Portable")
  end)

  it("does not take a maker's processor for its graphics card", function()
    assert.same({ 4 }, numbers "amd")
  end)

  it("prefers names that have it as a word", function()
    local gpu = gpu_with {
      device("NVIDIA A100-SXM4-40GB", "gpu", "NVIDIA CUDA", "NVIDIA Corporation", 108),
      device("NVIDIA A10", "gpu", "NVIDIA CUDA", "NVIDIA Corporation", 72),
    }
    local function names(spec)
      local list = {}
      for i, d in ipairs(gpu.match(spec, "f")) do list[i] = d.name end
      return list
    end
    assert.same({ "NVIDIA A10" }, names "a10")
    assert.same({ "NVIDIA A100-SXM4-40GB" }, names "A100")
    assert.same({ "NVIDIA A100-SXM4-40GB" }, names "40GB")
    assert.same({ "NVIDIA A100-SXM4-40GB" }, names "A1")
    assert.same({ "NVIDIA A100-SXM4-40GB", "NVIDIA A10" }, names "nvidia:2")
    assert.same({ "NVIDIA A100-SXM4-40GB", "NVIDIA A10" }, names "A1:2")
    assert.is_false((pcall(names, "A10:2")))
  end)

  it("takes several with a number behind a colon, or none", function()
    assert.same({ 2, 3 }, numbers "nvidia:2")
    contains(select(2, pcall(machine().match, "nvidia:3", "f")), 'f: gpu = "nvidia:3": no such devices, only 2; there are:\n')
    contains(select(2, pcall(machine().match, "radeon:2", "f")), 'f: gpu = "radeon:2": no such device; there are:\n')
  end)

  it("takes the first of a list that is there", function()
    assert.same({ 1 }, numbers { "radeon", "cpu" })
    assert.is_nil(machine().match({ "radeon", "threads" }, "f"))
  end)

  it("lists the devices there are when none matches", function()
    local fine, why = pcall(function() local list = machine().match("radeon", "f") return list end)
    assert.is_false(fine)
    contains(why, 'devices_spec.lua:', 'f: gpu = "radeon": no such device; there are:', "\n  NVIDIA H200 (gpu, NVIDIA CUDA)",
      "\n  pthread-AMD EPYC (cpu, Portable Computing Language)")
  end)

  it("says what to install where there is no OpenCL", function()
    local gpu = gpu_with(nil, "no OpenCL on this machine")
    assert.same({}, (gpu.devices()))
    support.mistake(function() local list = gpu.match(true, "f") return list end, 'f: gpu = "any": no OpenCL on this machine')
  end)
end)

describe("a machine without OpenCL", function()
  it("without a loader has no devices, and says so", function()
    local done = run "TIDEPOOL_OPENCL=/none/libOpenCL.so $T devices"
    assert.equal(1, done.code)
    contains(done.stderr, "no OpenCL on this machine: /none/libOpenCL.so", "apt install pocl-opencl-icd")
    assert.equal("[]\n", run("TIDEPOOL_OPENCL=/none/libOpenCL.so $T devices --json").stdout)
  end)

  it("with a library that is no loader says so", function()
    local done = run "TIDEPOOL_OPENCL=libm.so.6 $T devices"
    assert.equal(1, done.code)
    contains(done.stderr, "libm.so.6 is no OpenCL 1.2 loader")
  end)

  on_device("with a loader and no driver says so", function()
    local done = run "OCL_ICD_VENDORS=/none $T devices"
    assert.equal(1, done.code)
    contains(done.stderr, "OpenCL has no driver here")
  end)

  on_device("gets its devices when a loader has come", function()
    local loader
    for line in io.lines "/proc/self/maps" do loader = loader or line:match "%S*/libOpenCL%.so[^ ]*" end
    if not loader then return pending "no loader of OpenCL is used" end
    local late = support.temp_path()
    local done = run(("TIDEPOOL_OPENCL=%s $T job.lua"):format(late), { ["job.lua"] = ([[
      local tidepool = require "tidepool"
      local f = tidepool.App():func { gpu = true } (function(x) return x + 1 end)
      print(#tidepool.devices(), (pcall(function() return f:map({ 1, 2 }):list() end)))
      os.execute "ln -s %s %s"
      print(f:map({ 1, 2 }):list()[2], #tidepool.devices())
    ]]):format(loader, late) })
    assert.equal("", done.stderr)
    assert.equal("0\tfalse\n3\t" .. #there .. "\n", done.stdout)
  end)

  it("runs everything else", function()
    local done = run([[TIDEPOOL_OPENCL=/none/libOpenCL.so $T -e '
      local f = require "tidepool".App():func(function(x) return x + 1 end)
      print(f:map({ 1, 2 }):list()[2], #require "tidepool".devices())']])
    assert.equal("3\t0\n", done.stdout)
  end)
end)

-- Drivers need not be registered with the loader: in containers NVIDIA's often is not. PoCL's
-- library stands for one.
describe("a driver that the loader does not know", function()
  local pocl = ""
  for line in io.lines "/proc/self/maps" do pocl = line:match "%S*/libpocl%.so[^ ]*" or pocl end
  local on_pocl = needs.specs(it, pending, pocl ~= "", "no OpenCL device of PoCL")
  local job = { ["job.lua"] = [[
    local tidepool = require "tidepool"
    local f = tidepool.App():func { gpu = true } (function(x) return x + 1 end)
    print(#tidepool.devices(), f:map({ 1, 2 }):list()[2])
  ]] }

  on_pocl("can be named", function()
    local done = run(("OCL_ICD_VENDORS=/none TIDEPOOL_OPENCL=%s $T job.lua"):format(pocl), job)
    assert.equal("", done.stderr)
    assert.equal(#there .. "\t3\n", done.stdout)
  end)

  on_pocl("is found where it is NVIDIA's", function()
    job["driver.c"] = ([[
      #include <dlfcn.h>
      void *clGetExtensionFunctionAddress(const char *name)
      {
        void *pocl = dlopen("%s", RTLD_NOW);
        return ((void *(*)(const char *))dlsym(pocl, "clGetExtensionFunctionAddress"))(name);
      }]]):format(pocl)
    local done = run("cc -shared -fPIC -o libnvidia-opencl.so.1 driver.c -ldl; OCL_ICD_VENDORS=/none LD_LIBRARY_PATH=. $T job.lua", job)
    assert.equal("", done.stderr)
    assert.equal(#there .. "\t3\n", done.stdout)
  end)

  on_pocl("and has no device changes no message", function()
    local done = run("echo 'void *clGetExtensionFunctionAddress(const char *name) { return 0; }' >driver.c; " ..
      "cc -shared -fPIC -o libnvidia-opencl.so.1 driver.c; OCL_ICD_VENDORS=/none LD_LIBRARY_PATH=. $T devices")
    assert.equal(1, done.code)
    contains(done.stderr, "OpenCL has no driver here")
  end)
end)

describe("tidepool devices", function()
  it("refuses what it does not know", function()
    local done = run "$T devices --yaml"
    assert.equal(2, done.code)
    contains(done.stderr, "unknown argument --yaml")
  end)
end)
