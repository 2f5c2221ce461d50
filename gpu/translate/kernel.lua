-- kernel.lua: functions that users write in OpenCL C: reads their signatures, and writes the kernel
-- around a function of one element.
--
-- Two forms. A function of one element, the last one in the text: its parameters are the inputs,
-- what it returns is the first result, and pointers are further results. Or a whole __kernel: its
-- constant __global pointers are the inputs, the others the results, an integer `n` the number of
-- elements. In both a parameter that the table `with` has is not an input: it has that value, or
-- that array. The C compiler checks the text; here only signatures are read, and its lines are kept
-- as the user's.

local abi = require "tidepool.base.abi"

local kernel = {}

local TYPES = {
    double = "double", float = "float", char = "int8", uchar = "uint8", short = "int16", ushort = "uint16", int = "int32", uint = "uint32",
    long = "int64", ulong = "uint64", ["unsigned char"] = "uint8", ["unsigned short"] = "uint16", ["unsigned int"] = "uint32",
    unsigned = "uint32", ["unsigned long"] = "uint64", ["signed char"] = "int8", size_t = "uint64",
    int8_t = "int8", uint8_t = "uint8", int16_t = "int16", uint16_t = "uint16", int32_t = "int32", uint32_t = "uint32",
    int64_t = "int64", uint64_t = "uint64", bool = "bool",
}

kernel.types = TYPES

-- The text with comments, strings and preprocessor lines blanked out; line numbers stay the same.
local function code_of(text)
    local function blank(part) return (part:gsub("[^\n]", " ")) end
    text = text:gsub("/%*.-%*/", blank):gsub("//[^\n]*", blank):gsub('"[^"\n]*"', blank)
    return (("\n" .. text):gsub("\n[ \t]*#[^\n]*", blank):sub(2))
end

-- The text with everything inside braces blanked out, so that declarations remain.
local function top_level(code)
    return (code:gsub("%b{}", function(body) return "{" .. body:sub(2, -2):gsub("[^\n]", " ") .. "}" end))
end

---One parameter: { name, ctype, is_pointer, is_global, is_const, text of its type }.
local function parameter(text)
    local is_pointer = text:find("*", 1, true) ~= nil
    local words, one = {}, { is_pointer = is_pointer }
    for word in text:gsub("%*", " "):gmatch "[%w_]+" do
        if word == "const" then
            one.is_const = true
        elseif word == "__global" or word == "global" then
            one.is_global = true
        elseif word == "__constant" or word == "constant" then
            one.is_constant = true
        elseif word ~= "restrict" and word ~= "__restrict" and word ~= "volatile" and word ~= "__private" and word ~= "private" then
            words[#words + 1] = word
        end
    end
    one.name = table.remove(words)
    one.c_type = table.concat(words, " ")
    one.ctype = TYPES[one.c_type]
    if not one.name or one.c_type == "" then return nil, ("the parameter '%s' has no name or no type"):format((text:gsub("^%s+", ""))) end
    if not one.ctype then
        return nil, ("the parameter '%s' has the type '%s'; it can be double, float, or an integer type"):format(one.name, one.c_type)
    end
    return one
end

local function parameters(text)
    local list = {}
    if text:find "^%s*$" or text:find "^%s*void%s*$" then return list end
    for part in (text .. ","):gmatch "(.-)," do
        local one, why = parameter(part)
        if not one then return nil, why end
        list[#list + 1] = one
    end
    return list
end

-- The last function that is defined: the words before its name, its name, its parameters.
local function last_function(declarations)
    local before, name, list
    for head, found, arguments in declarations:gmatch "([%a_][%w_%s%*]-)([%a_][%w_]*)%s*(%b())%s*{" do
        before, name, list = head, found, arguments:sub(2, -2)
    end
    return before, name, list
end

-- Sorts the parameters of a __kernel by what they are for; gives the arguments in the kernel's
-- order.
local function roles_of_kernel(list, with)
    local arguments, inputs, outputs, has_count = {}, {}, {}, false
    for i, one in ipairs(list) do
        local value = with[one.name]
        if value ~= nil then
            arguments[i] = { kind = type(value) == "number" and "number" or "array", ctype = one.ctype, name = one.name, is_pointer = one.is_pointer }
        elseif one.is_constant then
            return nil, ("the array '%s' has no value: give it one with the option with = { %s = tidepool.array(...) }"):format(one.name, one.name)
        elseif one.is_pointer and not one.is_global then
            return nil, ("the parameter '%s' is neither __global nor in `with`"):format(one.name)
        elseif one.is_pointer and one.is_const then
            inputs[#inputs + 1] = { ctype = one.ctype, name = one.name }
            arguments[i] = { kind = "input", ctype = one.ctype, index = #inputs }
        elseif one.is_pointer then
            outputs[#outputs + 1] = { ctype = one.ctype }
            arguments[i] = { kind = "output", ctype = one.ctype, index = #outputs }
        elseif one.name == "n" and (one.ctype:find "int32$" or one.ctype:find "int64$") then
            arguments[i] = { kind = "count", ctype = one.ctype }
            has_count = true
        else
            return nil, ("the parameter '%s' has no value: give it one with the option with = { %s = ... }"):format(one.name, one.name)
        end
    end
    if not has_count then return nil, "it has no parameter `n`, as in `ulong n`: work items from n on have no element, and must return" end
    return { arguments = arguments, inputs = inputs, outputs = outputs }
end

-- The text of the kernel around a function of one element, and what its arguments are for.
local function wrap(before, name, list, with)
    local inputs, outputs, arguments = {}, {}, { { kind = "first", ctype = "uint64" }, { kind = "count", ctype = "uint64" } }
    local declared, passed, locals, stores, captured, captured_declared = {}, {}, {}, {}, {}, {}
    local result = before:gsub("[%*]", " * "):gsub("%f[%w_]static%f[^%w_]", ""):gsub("%f[%w_]inline%f[^%w_]", ""):gsub("^%s+", ""):gsub("%s+$", "")
    if result ~= "void" then
        if not TYPES[result] then return nil, ("it returns '%s'; it can return double, float, or an integer type"):format(result) end
        outputs[1] = { ctype = TYPES[result], c_type = result }
    end
    for i, one in ipairs(list) do
        local value = with[one.name]
        if value ~= nil then
            captured[#captured + 1] = { kind = type(value) == "number" and "number" or "array", ctype = one.ctype, name = one.name,
                is_pointer = one.is_pointer }
            captured_declared[#captured_declared + 1] = ("%s%s with_%s"):format(
                one.is_constant and "__constant " or one.is_pointer and "__global const " or "",
                one.c_type .. (one.is_pointer and " *" or ""), one.name)
            passed[i] = "with_" .. one.name
        elseif one.is_pointer and (one.is_global or one.is_constant) then
            return nil, ("the array '%s' has no value: give it one with the option with = { %s = tidepool.array(...) }"):format(one.name, one.name)
        elseif one.is_pointer then
            outputs[#outputs + 1] = { ctype = one.ctype, c_type = one.c_type }
            locals[#locals + 1] = ("    %s result_%d = 0;\n"):format(one.c_type, #outputs)
            stores[#stores + 1] = ("    out_%d[at] = result_%d;\n"):format(#outputs, #outputs)
            passed[i] = "&result_" .. #outputs
        else
            inputs[#inputs + 1] = { ctype = one.ctype, name = one.name }
            arguments[#arguments + 1] = { kind = "input", ctype = one.ctype, index = #inputs }
            declared[#declared + 1] = ("__global const %s *in_%d"):format(one.ctype == "bool" and "uchar" or one.c_type, #inputs)
            passed[i] = ("in_%d[at]"):format(#inputs)
        end
    end
    for i, output in ipairs(outputs) do
        arguments[#arguments + 1] = { kind = "output", ctype = output.ctype, index = i }
        declared[#declared + 1] = ("__global %s *out_%d"):format(output.ctype == "bool" and "uchar" or output.c_type, i)
    end
    for i, one in ipairs(captured) do
        arguments[#arguments + 1] = one
        declared[#declared + 1] = captured_declared[i]
    end
    local call = ("%s(%s)"):format(name, table.concat(passed, ", "))
    local text = ([[
#line 1 "tidepool kernel"
__kernel void tidepool_%s(ulong first, ulong count%s)
{
    ulong at = get_global_id(1) * get_global_size(0) + get_global_id(0);
    if (at >= count) return;
    at += first;
%s    %s;
%s}
]]):format(name, #declared > 0 and ", " .. table.concat(declared, ", ") or "", table.concat(locals),
        result == "void" and call or "out_1[at] = " .. call, table.concat(stores))
    return { arguments = arguments, inputs = inputs, outputs = outputs, text = text, kernel = "tidepool_" .. name, has_rows = true }
end

---Does a text compute doubles?
function kernel.needs_double(text)
    return text:find "%f[%w_]double%d*%f[^%w_]" ~= nil
end

local SPACES = { global = "global", constant = "constant", ["local"] = "local", private = "private" }

---The parameters of a __kernel as its source declares them: a list of { type, name, space }; nil
---when that is not to be seen.
---@param text string
---@param name string
function kernel.declared(text, name)
    local list
    for found, parenthesised in top_level(code_of(text)):gmatch "%f[%w_]([%a_][%w_]*)%s*(%b())%s*{" do
        if found == name then list = parenthesised:sub(2, -2) end
    end
    if not list then return nil end
    local declared = {}
    if list:find "^%s*$" or list:find "^%s*void%s*$" then return declared end
    for part in (list .. ","):gmatch "(.-)," do
        local space, words = "private", {}
        for word in part:gmatch "[%w_*]+" do
            local bare = word:match "^__(%l+)$" or word
            if SPACES[bare] then
                space = SPACES[bare]
            else
                words[#words + 1] = word
            end
        end
        local stars, parameter_name = (table.remove(words) or ""):match "^(%**)(.*)$"
        declared[#declared + 1] = { table.concat(words, " ") .. stars, parameter_name, space }
    end
    return declared
end

---Reads a text of OpenCL C.
---@param text string
---@param with table<string, any> values of parameters, by their names
---@param file string? the file that the text is in
---@param line integer? the line there at which it begins
---@return table? unit { source, kernel, arguments, inputs, outputs, needs_double, has_rows }
---@return string? why not
function kernel.read(text, with, file, line)
    local declarations = top_level(code_of(text))
    local before, name, list = last_function(declarations)
    if not name then return nil, "there is no function in it: write `double f(double x) { return ...; }`, or a whole __kernel" end
    local parsed, why = parameters(list)
    if not parsed then return nil, ("%s: %s"):format(name, why) end
    local is_kernel = before:find "%f[%w_]_*kernel%f[^%w_]" ~= nil
    local unit
    if is_kernel then
        unit, why = roles_of_kernel(parsed, with)
    else
        unit, why = wrap(before, name, parsed, with)
    end
    if not unit then return nil, ("%s: %s"):format(name, why) end
    if #unit.outputs == 0 then
        return nil, ("%s has no result: %s"):format(name, is_kernel and "a __global pointer that is not const is one" or
            "return it, or store it through a pointer")
    end
    local most = abi.KERNEL_COLUMNS_MAX
    if #unit.inputs > most or #unit.outputs > most then
        return nil, ("%s has more than %d inputs or results"):format(name, most)
    end
    local known = {}
    for _, one in ipairs(parsed) do known[one.name] = one end
    for given, value in pairs(with) do
        local one = known[given]
        if not one then return nil, ("%s has no parameter '%s', which `with` gives"):format(name, tostring(given)) end
        if one.is_pointer ~= (type(value) ~= "number") then
            return nil, ("%s: the parameter '%s' is %s, and `with` gives %s"):format(name, given, one.is_pointer and "an array" or "a number",
                type(value) == "number" and "a number" or "an array")
        end
    end
    unit.needs_double = kernel.needs_double(text)
    unit.source = ("%s#line %d \"%s\"\n%s\n%s"):format(
        unit.needs_double and "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n" or "", line or 1,
        (file or "kernel"):gsub('[\\"]', "\\%0"), text, unit.text or "")
    unit.kernel = unit.kernel or name
    return unit
end

return kernel
