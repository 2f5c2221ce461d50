-- support_opencl.lua: enough of OpenCL, by FFI, to run translated functions in tests. Not part of
-- the product.
--
-- One context and one queue on the first device of the first platform. Compiled kernels are cached
-- by the driver in $POCL_CACHE_DIR, which is set to a folder that can be written: PoCL takes one
-- that cannot for "no device".

local ffi = require "ffi"

ffi.cdef [[
typedef struct _cl_platform_id *cl_platform_id;
typedef struct _cl_device_id *cl_device_id;
typedef struct _cl_context *cl_context;
typedef struct _cl_command_queue *cl_command_queue;
typedef struct _cl_program *cl_program;
typedef struct _cl_kernel *cl_kernel;
typedef struct _cl_mem *cl_mem;
int clGetPlatformIDs(unsigned n, cl_platform_id *ids, unsigned *count);
int clGetDeviceIDs(cl_platform_id platform, uint64_t type, unsigned n, cl_device_id *ids, unsigned *count);
int clGetDeviceInfo(cl_device_id device, unsigned what, size_t size, void *value, size_t *got);
cl_context clCreateContext(const intptr_t *properties, unsigned n, const cl_device_id *ids, void *fn, void *user, int *err);
cl_command_queue clCreateCommandQueue(cl_context context, cl_device_id device, uint64_t properties, int *err);
cl_program clCreateProgramWithSource(cl_context context, unsigned n, const char **texts, const size_t *lengths, int *err);
int clBuildProgram(cl_program program, unsigned n, const cl_device_id *ids, const char *options, void *fn, void *user);
int clGetProgramBuildInfo(cl_program program, cl_device_id device, unsigned what, size_t size, void *value, size_t *got);
cl_kernel clCreateKernel(cl_program program, const char *name, int *err);
int clSetKernelArg(cl_kernel kernel, unsigned index, size_t size, const void *value);
cl_mem clCreateBuffer(cl_context context, uint64_t flags, size_t size, void *host, int *err);
int clEnqueueNDRangeKernel(cl_command_queue queue, cl_kernel kernel, unsigned dims, const size_t *offset, const size_t *global,
    const size_t *local_size, unsigned n, const void *events, void *event);
int clEnqueueReadBuffer(cl_command_queue queue, cl_mem mem, unsigned blocking, size_t offset, size_t size, void *to,
    unsigned n, const void *events, void *event);
int clFinish(cl_command_queue queue);
int clReleaseMemObject(cl_mem mem);
int clReleaseKernel(cl_kernel kernel);
int clReleaseProgram(cl_program program);
int setenv(const char *name, const char *value, int overwrite);
]]

local CTYPES = { double = "double", float = "float", int32 = "int32_t", int16 = "int16_t", int8 = "int8_t", int64 = "int64_t",
                 uint32 = "uint32_t", uint16 = "uint16_t", uint8 = "uint8_t", uint64 = "uint64_t", bool = "uint8_t" }
local COPY, USE_HOST = 32, 8   -- CL_MEM_COPY_HOST_PTR, CL_MEM_USE_HOST_PTR
local LOCAL_SIZE = 64

local opencl = {}
local Device = {}
Device.__index = Device

local function check(code, what)
    if code ~= 0 then error(("%s: OpenCL error %d"):format(what, code), 2) end
end

---A typed array as the product's: 1-based, checked, with ctype, n and data.
---@param ctype string
---@param list table|integer
function opencl.array(ctype, list)
    local n = type(list) == "table" and #list or list
    local data = ffi.new(CTYPES[ctype] .. "[?]", math.max(n, 1))
    for i = 1, type(list) == "table" and n or 0 do data[i - 1] = list[i] end
    local fields = { ctype = ctype, n = n, data = data }
    local array = newproxy(true)   -- a userdata, since `#` of a table asks no metatable in LuaJIT
    local meta = getmetatable(array)
    function meta.__index(_, i)
        if type(i) ~= "number" then return fields[i] end
        if not (i >= 1 and i <= n and i == math.floor(i)) then error(("index %s is out of range (1 to %d)"):format(i, n), 2) end
        return data[i - 1]
    end
    function meta.__len() return n end
    return array
end

---The first OpenCL device; nil and a reason when there is none.
function opencl.open()
    -- The translator is Lua, and its kernels are PoCL's to compile: there is nothing of ours for a
    -- sanitizer to see, and LLVM takes many minutes.
    if os.getenv "TIDEPOOL_SANITIZER" then return nil, "no OpenCL device under a sanitizer" end
    if not os.getenv "POCL_CACHE_DIR" then
        local folder = (os.getenv "TMPDIR" or "/tmp") .. "/tidepool-pocl-cache"
        os.execute(("mkdir -p '%s'"):format(folder))
        ffi.C.setenv("POCL_CACHE_DIR", folder, 1)
    end
    local loaded, cl = pcall(ffi.load, "libOpenCL.so.1")
    if not loaded then return nil, "no OpenCL device (no libOpenCL.so.1)" end
    local platform, device, count = ffi.new "cl_platform_id[1]", ffi.new "cl_device_id[1]", ffi.new "unsigned[1]"
    if cl.clGetPlatformIDs(1, platform, count) ~= 0 or count[0] == 0 then return nil, "no OpenCL device (no platform)" end
    if cl.clGetDeviceIDs(platform[0], 0xffffffffULL, 1, device, count) ~= 0 or count[0] == 0 then
        return nil, "no OpenCL device"
    end
    local err = ffi.new "int[1]"
    local context = cl.clCreateContext(nil, 1, device, nil, nil, err)
    check(err[0], "clCreateContext")
    local queue = cl.clCreateCommandQueue(context, device[0], 0, err)
    check(err[0], "clCreateCommandQueue")
    return setmetatable({ cl = cl, device = device, context = context, queue = queue }, Device)
end

function Device:name()
    local text = ffi.new "char[200]"
    check(self.cl.clGetDeviceInfo(self.device[0], 0x102b, 200, text, nil), "clGetDeviceInfo")
    return ffi.string(text)
end

---Builds a translation. Raises with the compiler's log.
---@param options string? more options for the compiler
function Device:build(translation, options)
    local cl, err = self.cl, ffi.new "int[1]"
    local text = ffi.new("const char *[1]", { translation.source })
    local program = cl.clCreateProgramWithSource(self.context, 1, text, nil, err)
    check(err[0], "clCreateProgramWithSource")
    local code = cl.clBuildProgram(program, 1, self.device, "-cl-std=CL1.2 -w " .. (options or ""), nil, nil)
    if code ~= 0 then
        local log = ffi.new("char[?]", 20000)
        cl.clGetProgramBuildInfo(program, self.device[0], 0x1183, 20000, log, nil)
        error(("build error %d\n%s\n%s"):format(code, ffi.string(log), translation.source))
    end
    local kernel = cl.clCreateKernel(program, translation.kernel, err)
    check(err[0], "clCreateKernel")
    return { program = program, kernel = kernel, translation = translation }
end

function Device:release(built)
    self.cl.clReleaseKernel(built.kernel)
    self.cl.clReleaseProgram(built.program)
end

---Runs a built translation over inputs.
---@param inputs table[] per input an array of opencl.array, or a list
---@param range { first: integer, count: integer }? from 0; all of them by default
---@return cdata[] outputs
---@return cdata? failed
---@return cdata? details
function Device:run(built, inputs, range)
    local cl, translation, err = self.cl, built.translation, ffi.new "int[1]"
    local n = inputs[1] and #inputs[1] or 1
    range = range or { first = 0, count = n }
    local keep, mems, outputs, failed, details = {}, {}, {}, nil, nil
    local function buffer(data, bytes, flags)
        local mem = cl.clCreateBuffer(self.context, flags, bytes, data, err)
        check(err[0], "clCreateBuffer")
        mems[#mems + 1], keep[#keep + 1] = mem, data
        return ffi.new("cl_mem[1]", { mem })
    end
    local reads = {}
    for i, argument in ipairs(translation.arguments) do
        local ctype, kind = CTYPES[argument.ctype], argument.kind
        local size = ffi.sizeof(ctype)
        local value
        if kind == "input" then
            local input = inputs[argument.index]
            local array = type(input) == "userdata" and input or opencl.array(argument.ctype, input)
            keep[#keep + 1] = array
            value = buffer(array.data, math.max(array.n, 1) * size, USE_HOST)
        elseif kind == "output" or kind == "failed" or kind == "details" then
            if kind == "details" then size = size * argument.index end
            local data = ffi.new(ctype .. "[?]", n * size / ffi.sizeof(ctype))
            if kind == "output" then outputs[argument.index] = data elseif kind == "failed" then failed = data else details = data end
            value = buffer(data, n * size, COPY)
            reads[#reads + 1] = { value[0], n * size, data }
        elseif kind == "array" then
            local array = argument.read()
            if argument.is_list then array = opencl.array(argument.ctype, array) end
            value = buffer(array.data, math.max(array.n, 1) * size, USE_HOST)
        elseif kind == "first" or kind == "count" then
            value = ffi.new("uint64_t[1]", range[kind])
        elseif kind == "key" or kind == "index" then -- of random numbers: any will do
            value = ffi.new("uint64_t[1]", kind == "key" and argument.index * 0x123456789abcdefULL or 1000)
        else
            value = ffi.new(ctype .. "[1]", argument.read())
        end
        check(cl.clSetKernelArg(built.kernel, i - 1, ffi.sizeof(value), value), "clSetKernelArg " .. i)
    end
    local items = math.ceil(range.count / translation.lanes)
    local global = ffi.new("size_t[1]", math.max(1, math.ceil(items / LOCAL_SIZE)) * LOCAL_SIZE)
    check(cl.clEnqueueNDRangeKernel(self.queue, built.kernel, 1, nil, global, ffi.new("size_t[1]", LOCAL_SIZE), 0, nil, nil),
        "clEnqueueNDRangeKernel")
    for _, read in ipairs(reads) do
        check(cl.clEnqueueReadBuffer(self.queue, read[1], 1, 0, read[2], read[3], 0, nil, nil), "clEnqueueReadBuffer")
    end
    for _, mem in ipairs(mems) do cl.clReleaseMemObject(mem) end
    return outputs, failed, details
end

--- The message of element `at` (from 0) of n that has failed, as Device:run gave it.
function opencl.message(translation, n, at, outputs, failed, details)
    local numbers = { translation.detail_output and outputs[translation.detail_output][at] }
    for _, argument in ipairs(translation.arguments) do
        for column = 0, argument.kind == "details" and argument.index - 1 or -1 do numbers[#numbers + 1] = details[column * n + at] end
    end
    return translation:describe(failed[at], unpack(numbers))
end

local bits = ffi.new "union { double number; int64_t word; }"
local function ordered(number)
    bits.number = number
    local word = bits.word
    if word < 0 then word = -0x7fffffffffffffffLL - 1 - word end
    return word
end

--- Units in the last place between two doubles; NaN equals NaN, and 0 equals -0.
function opencl.ulps(a, b)
    if a == b or (a ~= a and b ~= b) then return 0 end
    if a ~= a or b ~= b then return math.huge end
    return math.abs(tonumber(ordered(a) - ordered(b)))
end

-- Pairs of inputs: special values first, then others of all sizes, in a number that no vector
-- divides.
local function make_inputs(count)
    local random = require "tidepool.translate.random"
    local special = { 0, -0.0, 1, -1, 2, 0.5, -0.5, 3, -7, 255, 1e300, -1e300, 5e-324, 2 ^ 31, -2 ^ 31, 2 ^ 32 + 5, 2 ^ 53,
                      1 / 0, -1 / 0, 0 / 0, 1e-310, 100.5, 0.1, -2.5 }
    local xs, ys = {}, {}
    for i = 1, count do
        local u, v = random(1, i), random(2, i)
        xs[i] = special[i] or (u - 0.5) * 10 ^ math.floor(random(3, i) * 7 - 2)
        ys[i] = special[i] and special[(i * 7) % #special + 1] or (v - 0.5) * 20
        if not special[i] and i % 3 == 0 then xs[i] = math.floor(xs[i]) end
        if not special[i] and i % 4 == 0 then ys[i] = math.floor(ys[i]) end
    end
    return xs, ys
end
local xs, ys
function opencl.inputs()
    if not xs then xs, ys = make_inputs(101) end
    return xs, ys
end

-- Runs fn in plain Lua (interpreted: LuaJIT's compiler and interpreter differ in max and min of
-- NaN) and on the device. exact[k]: result k must have the same bits; the others may differ by 4
-- ulp. Gives what differs, nil when nothing does.
function Device:difference(fn, exact, translation, options)
    local XS, YS = opencl.inputs()
    local built = self:build(translation, options)
    local outputs, failed, details = self:run(built, { XS, YS })
    self:release(built)
    jit.off()
    local trouble
    for i = 1, #XS do
        local plain = { pcall(fn, XS[i], YS[i]) }
        local status = failed and failed[i - 1] or 0
        local where = ("lanes %d, f(%.17g, %.17g)"):format(translation.lanes, XS[i], YS[i])
        if plain[1] and status ~= 0 then
            trouble = ("%s: fails on the device: %s"):format(where, translation:describe(status))
        elseif not plain[1] then
            local said = status ~= 0 and opencl.message(translation, #XS, i - 1, outputs, failed, details)
            if status == 0 then
                trouble = ("%s: does not fail on the device: %s"):format(where, plain[2])
            elseif said ~= plain[2] and not said:find "index" and not (said:find "is nil" and plain[2]:find "nil value") then
                trouble = ("%s: the failure is %q, should be %q"):format(where, said, plain[2])
            end
        else
            for k = 1, #translation.outputs do
                local want, got = plain[k + 1], outputs[k][i - 1]
                if type(want) == "boolean" then want = want and 1 or 0 end
                local off = opencl.ulps(want, got)
                if off > (exact[k] and 0 or 4) then
                    trouble = ("%s: result %d is %.17g, should be %.17g (%g ulp)"):format(where, k, got, want, off)
                end
            end
        end
        if trouble then break end
    end
    jit.on()
    return trouble
end

--- A function that makes specs which need a device that this file can use (see devices.specs), and
--- that device; nil where there is none.
---@return function on_device
---@return table? device
function opencl.specs(it, pending)
  local device, no_device = opencl.open()
  return require "tests.support_device".specs(it, pending, device, no_device), device
end

--- A function for specs that compare functions of two numbers with plain Lua, in the scalar and the
--- vector form: same(what, ...).
---@param on_device function  see devices.specs
---@param recursion_limit integer?
---@param forms integer[]?  the lanes, { 1, 8 } by default
function opencl.same(on_device, device, recursion_limit, forms)
  return function(what, ...)
    local functions = { ... }
    on_device(what, function()
      local translate = require "tidepool.translate.translate".translate
      for i, fn in ipairs(functions) do
        for _, lanes in ipairs(forms or { 1, 8 }) do
          local translation = translate(fn, { lanes = lanes, name = "f" .. i, inputs = { "double", "double" }, recursion_limit = recursion_limit })
          local trouble = device:difference(fn, {}, translation)
          assert(not trouble, ("function %d: %s"):format(i, trouble))
        end
      end
    end)
  end
end

return opencl
