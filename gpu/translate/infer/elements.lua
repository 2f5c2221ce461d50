-- elements.lua: elements of captured arrays and lists, a[i], of matrices and grids, a:at(y, x), and
-- of rooms.

local arrays = require "tidepool.translate.infer.arrays"
local flows = require "tidepool.translate.infer.flow"
local functions = require "tidepool.translate.infer.functions"
local statics = require "tidepool.translate.infer.statics"
local types = require "tidepool.translate.infer.types"
local updates = require "tidepool.translate.infer.updates"
local walk = require "tidepool.translate.infer.walk"
local wide_rules = require "tidepool.translate.infer.wide"
local wide = require "tidepool.translate.wide"

local elements = {}

local refuse = functions.refuse
local bake, nil_of, source_of, static_of, string_of = statics.bake, statics.nil_of, statics.source_of, statics.static_of, statics.string_of
local join, numeric, shown = types.join, types.numeric, types.shown
local fails = flows.fails
local expr = walk.expr
local WIDE = wide.KINDS

local expression = walk.expression

local DIMENSIONS = { [2] = { "row", "column" }, [3] = { "plane", "row", "column" } }

-- Which element "a:at(y, x, border)" reads, for inst.places: { sizes = the captured numbers of the
-- dimensions; indexes, codes: the nodes of the indexes, and the failures of those that may be
-- wrong; modes = for each index "clamp", "wrap", "number" or false: it must be within the bounds;
-- border = the node of that number }. How many dimensions the array has is baked in; so is, where
-- that matters, whether it has no rows: then no row is the nearest one. The same of "a:set(y, x,
-- v)", which has no border.
local function place_of(inst, node, flow)
    local base = static_of(inst, node.object)
    local path = base.path
    local function field(name)
        local function read() return base.read()[name] end
        return { path = path .. "." .. name, key = base.key .. "." .. name, value = read(), read = read }
    end
    local function dimensions() return base.read().columns == 0 and 1 or base.read().planes > 0 and 3 or 2 end
    local count = bake(inst, { path = path .. " (its dimensions)", key = base.key .. " dimensions", value = dimensions(), read = dimensions }).value
    if count == 1 then refuse(inst, node, "'%s' has no rows: %s:reshape(rows, columns) gives it some", path, path) end
    local names, border = DIMENSIONS[count], node.args[count + 1]
    if node.name == "set" and #node.args ~= count then
        refuse(inst, node, "'%s:set' takes (%s, value)", path, table.concat(names, ", "))
    elseif #node.args < count or #node.args > count + 1 then
        refuse(inst, node, "'%s:at' with %d argument%s; it takes (%s, border)", path, #node.args, #node.args == 1 and "" or "s",
            table.concat(names, ", "))
    end
    local rows, columns, planes = field "rows", field "columns", field "planes"
    local made = { sizes = count == 3 and { planes, rows, columns } or { rows, columns }, indexes = node.args, codes = {}, modes = {} }
    local mode = false
    if border and nil_of(inst, border) ~= true then
        local text = string_of(inst, border)
        if text and text ~= "clamp" and text ~= "wrap" then
            refuse(inst, border, "\"%s\"; what is beyond the border is \"clamp\", \"wrap\" or a number", text)
        end
        mode, made.border = text or "number", not text and border or nil
    end
    local has_none = false
    if mode == "clamp" or mode == "wrap" then
        local function is_empty() return base.read().rows == 0 end
        has_none = bake(inst, { path = path .. " (whether it has rows)", key = base.key .. " is empty", value = is_empty(), read = is_empty }).value
    end
    for i, size in ipairs(made.sizes) do
        inst:capture("number", size)
        made.sizes[i] = inst.captured["number" .. size.key]
    end
    local where = ("%s:%d: array:%s: "):format((node.source or inst.fn.source).file, node.line, node.name)
    for i, name in ipairs(names) do
        local kind, varies = expr(inst, node.args[i], flow)
        numeric(inst, node.args[i], kind, "an index")
        made.varies = made.varies or varies
        local has_border = mode and not (has_none and name == "row")
        made.modes[i] = has_border and mode
        if not has_border or kind == "num" then
            local pieces = { where .. (has_border and name or "there is no " .. name) .. " ", { format = "%.14g" } }
            pieces.numbers = { pieces[2] }
            if has_border then
                pieces[3] = " is not a whole number"
            else
                pieces[3] = " in "
                if count == 3 then
                    pieces[#pieces + 1] = { format = "%d", static = planes }
                    pieces[#pieces + 1] = " planes of "
                end
                pieces[#pieces + 1] = { format = "%d", static = rows }
                pieces[#pieces + 1] = " rows of "
                pieces[#pieces + 1] = { format = "%d", static = columns }
                pieces[#pieces + 1] = " columns"
            end
            made.codes[i] = inst:failure("message", node, ("%s of '%s' %s %s"):format(name, base.key, node.name, has_border and mode or ""))
            inst.program.failures[made.codes[i]].pieces = pieces
            fails(inst, flow, varies)
        end
    end
    return made, base
end

-- An element of a matrix: a:at(y, x, border).
local function matrix_element(inst, node, flow)
    local made, base = place_of(inst, node, flow)
    local ctype = arrays.array_type(base.value)
    local kind = arrays.TYPES[ctype]
    inst:capture("array", base)
    made.array, made.kind = inst.captured["array" .. base.key], kind
    if made.border then
        local border, varies = expr(inst, made.border, flow)
        if WIDE[kind] and border ~= kind or WIDE[border] and kind ~= border then
            refuse(inst, made.border, "what is beyond the border is %s, and an element of '%s' is %s; a value has one type on a device%s",
                "a " .. shown(border), base.path, "a " .. shown(kind), wide_rules.advice(kind, border))
        end
        if not WIDE[border] then numeric(inst, made.border, border, "what is beyond the border") end
        kind, made.varies = join(kind, border) or "num", made.varies or varies
    end
    inst.places[node] = made
    return kind, made.varies or false
end

-- The number of the element that a:set writes.
function expression.Place(inst, node, flow)
    local made = place_of(inst, node, flow)
    inst.places[node] = made
    return "num", made.varies or false
end

-- What is written on a device in the place of a method of arrays.
local function instead_of(name, path, has_planes)
    if name == "row" or name == "plane" then return ("write %s:at(%srow, column)"):format(path, has_planes and "plane, " or "") end
    return ("arrays have the methods at, set, add, max and min; call '%s:%s' before the map"):format(path, name)
end

function expression.Method(inst, node, flow)
    local static = static_of(inst, node.object)
    if static and not static.nested and arrays.array_type(static.value) then
        if node.name == "at" then return matrix_element(inst, node, flow) end
        if updates.METHODS[node.name] or node.name == "set" then
            refuse(inst, node, "what '%s:%s' gives; on a device it is a statement that gives nothing", static.path, node.name)
        end
        refuse(inst, node, "the method '%s:%s'; on a device %s", static.path, node.name,
            instead_of(node.name, static.path, static.value.planes > 0))
    end
    refuse(inst, node, "the method call ':%s'; there are no objects on a device, call a plain function", node.name)
end

-- Advice on how to make a typed array of a value that is indexed as if it were one.
local function array_advice(static)
    local value, path = static.value, static.path
    if static.nested or type(value) == "function" then return "call it, or capture a typed array" end
    if type(value) == "cdata" then
        return ("copy it into a typed array, whose elements count from 1: local a = tidepool.array(\"double\", n) "
            .. "for i = 1, n do a[i] = %s[i - 1] end"):format(path)
    end
    if type(value) == "userdata" and arrays.has_fields(value) then
        return ("its elements are a device's: map it, or capture %s:read()"):format(path)
    end
    if type(value) ~= "table" then return "capture a typed array: tidepool.array(\"double\", n)" end
    if debug.getmetatable(value) ~= nil then return "it has a metatable, which does not exist on a device; capture a plain list or a typed array" end
    local first = value[1]
    if first ~= nil and type(first) ~= "number" and not wide.kind_of(first) then
        return ("its elements are %ss, and only numbers have arrays there"):format(type(first))
    elseif first ~= nil then
        return "its numbers do not count from 1 without holes, or there are others beside them"
    end
    return ("capture a typed array instead: tidepool.array(\"double\", %s)"):format(path)
end

-- An element of a captured array, which may be stored to (`is_written`).
function elements.element(inst, node, flow, is_written)
    local base, key = source_of(inst, node)
    if not base then
        expr(inst, node.object, flow)
        refuse(inst, node, "an index into a number; only captured typed arrays and lists have elements")
    end
    local ctype = not base.nested and (arrays.array_type(base.value) or arrays.list_type(base.value))
    if not ctype then
        refuse(inst, node, "'%s' is a %s, indexed with something computed here; %s", base.path, base.nested and "function" or type(base.value),
            array_advice(base))
    end
    local kind = arrays.TYPES[ctype]
    inst:capture("array", base)
    if is_written then
        inst.captured["array" .. base.key].is_written = true
        inst.stores[node] = true
    end
    local index, varies = expr(inst, key, flow)
    numeric(inst, node, index, "an index")
    inst.codes[node] = inst:failure("index", node, ("index of '%s'"):format(base.path), inst.captured["array" .. base.key])
    fails(inst, flow, varies)
    return kind, varies
end

-- What a:add(i, v) and its like make of v first: what an element can be. Integers take only whole
-- numbers.
function expression.Operand(inst, node, flow)
    local kind, varies = expr(inst, node.expr, flow)
    if not WIDE[kind] then numeric(inst, node.expr, kind, ("'%s'"):format(node.method)) end
    local constant = inst.constants[node.expr]
    if kind == "num" and node.ctype ~= "float" and not (constant and constant == math.floor(constant)) then
        local pieces = { ("%s:%d: array:%s: elements of type %s take whole numbers, got "):format((node.source or inst.fn.source).file, node.line,
            node.method, node.ctype), { format = "%.14g" } }
        pieces.numbers = { pieces[2] }
        inst.codes[node] = inst:failure("message", node, ("%s of %s"):format(node.method, node.ctype))
        inst.program.failures[inst.codes[node]].pieces = pieces
        fails(inst, flow, varies)
    end
    return updates.OPERANDS[node.ctype], varies
end

-- An element of a room. Its index is in range: lower/places.lua has seen to it.
function expression.Cell(inst, node, flow)
    numeric(inst, node.index, (expr(inst, node.index, flow)), "an index")
    local known = inst.vars[node.var]
    return known.kind, known.varies
end

return elements
