-- emitter.lua: writes one instance of a function: lines of text, names, types and values, and
-- masks.
--
-- Masks form a chain, from that of the function (m0) to that of the innermost condition. A mask
-- that is known to be full is not written. Expressions, calls and statements are further methods of
-- the Emitter, in files of their own.

local wide = require "tidepool.translate.wide"

local emitter = {}

local WIDE = wide.KINDS

-- C's types of elements of buffers.
local C_ELEMENT = { double = "double", float = "float", int32 = "int", int16 = "short", int8 = "char", uint32 = "uint",
                    uint16 = "ushort", uint8 = "uchar", int64 = "long", uint64 = "ulong", bool = "uchar" }
emitter.C_ELEMENT = C_ELEMENT

---@class tidepool.gpu.Emitter writes one instance
local Emitter = {}
Emitter.__index = Emitter

---------------------------------------------------------------------------------------------------
-- Text

function Emitter:line(format, ...)
    self.lines[#self.lines + 1] = ("    "):rep(self.indent) .. format:format(...)
end

function Emitter:open(format, ...)
    self:line(format, ...)
    self.indent = self.indent + 1
end

function Emitter:close(text)
    self.indent = self.indent - 1
    self:line("%s", text or "}")
end

-- Runs `write` without keeping the lines that it writes; gives its result and these lines.
function Emitter:aside(write)
    local lines = self.lines
    self.lines = {}
    local result = write()
    local written = self.lines
    self.lines = lines
    return result, written
end

-- Runs `write`, whose lines are put where the function begins; gives its results.
function Emitter:at_start(write)
    local indent, lines = self.indent, self.lines
    self.indent, self.lines = 1, self.prologue
    local first, second = write()
    self.indent, self.lines = indent, lines
    return first, second
end

function Emitter:append(lines)
    for _, line in ipairs(lines) do self.lines[#self.lines + 1] = line end
end

-- A new name: t1, t2, ...
function Emitter:temp(letter)
    self.temps = self.temps + 1
    return letter .. self.temps
end

local function identifier(text)
    return (text:gsub("[^%w_]+", "_"):gsub("_+$", ""))
end

-- The C name of a local: its own name with "_" behind it, so that it is no keyword or builtin, and
-- a number unless it is the first of that name.
function Emitter:name(var)
    local base = identifier(var.name)
    local count = (self.used[base] or 0) + 1
    self.used[base] = count
    self.names[var] = base .. "_" .. (count > 1 and count or "")
    return self.names[var]
end

function Emitter:mark(node)
    local source = node.source or self.inst.fn.source
    if self.marked ~= node.line then
        local text = (source.lines[node.line] or ""):gsub("^%s+", ""):gsub("[\\%s]+$", "")
        self:line("// %d: %s", node.line, text)
        self.marked = node.line
        self.lines[#self.lines + 1] = ("#line %d \"%s\""):format(node.line, source.file:gsub('[\\"]', "\\%0"))
    end
end

---------------------------------------------------------------------------------------------------
-- Types and values. A value is { c = text, kind =, varies =, literal = }; one of kind "maybe" has
-- `cond` and `value` instead of c. `exact` of a constant: its number, where c has it rounded.

function Emitter:type(kind, varies)
    if kind == "bool" then return varies and self.mask_type or "int" end
    local base = kind == "int" and "int" or kind == "long" and "long" or WIDE[kind] and "ulong" or self.real
    return varies and base .. self.lanes or base
end

local function number_text(v, single)
    if v ~= v then return single and "NAN" or "(double)NAN" end
    if v == math.huge then return single and "INFINITY" or "(double)INFINITY" end
    if v == -math.huge then return single and "(-INFINITY)" or "(-(double)INFINITY)" end
    local text = ("%.15g"):format(v)
    if tonumber(text) ~= v then text = ("%.17g"):format(v) end
    if not text:find "[%.e]" then text = text .. ".0" end
    if single then text = text .. "f" end
    return (v < 0 or 1 / v < 0) and "(" .. text .. ")" or text
end

local function integer_text(v, long)
    if v == -2147483648 then return "(-2147483647 - 1)" end
    local text = ("%d"):format(v) .. (long and "L" or "")
    return v < 0 and "(" .. text .. ")" or text
end

local function literal(v)
    return { literal = v, kind = "k", varies = false }
end

-- The text without parentheses around the whole.
local function bare(c)
    if c:sub(1, 1) == "(" and c:find "^%b()$" then return c:sub(2, -2) end
    return c
end

-- A value converted to a 64-bit integer.
local function as_wide(self, value, kind)
    local constant = value.literal or value.exact
    if constant then return wide.constant(constant, kind) end
    if WIDE[value.kind] then return value.c end
    local function helper(name) return ("%s(%s)"):format(self:need(name, value.varies), bare(value.c)) end
    if value.kind == "num" then
        if kind == "uint64" then return helper "lua_to_ulong" end
        return ("as_%s(%s)"):format(self:type(kind, value.varies), helper "lua_to_long")
    end
    local c = value.c
    if value.kind == "int" or value.range then c = ("convert_%s(%s)"):format(self:type("long", value.varies), bare(c)) end
    if kind == "int64" then return ("as_%s(%s)"):format(self:type(kind, value.varies), bare(c)) end
    return ("%s(%s)"):format(self:need("lua_long_to_ulong", value.varies), bare(c))
end

-- A 64-bit integer converted to a number: "num", or "int", its low half.
local function of_wide(self, value, kind)
    local c = bare(value.c)
    if kind == "int" then return ("as_%s(convert_%s%s(%s))"):format(self:type("int", value.varies), "uint", value.varies and self.lanes or "", c) end
    if value.kind == "int64" then c = ("as_%s(%s)"):format(self:type("long", value.varies), c) end
    return ("convert_%s(%s)"):format(self:type(kind, value.varies), c)
end

-- The value converted to this kind; `varies`: for all lanes.
function Emitter:as(value, kind, varies)
    if kind == "k" then kind = "num" end
    local c = value.c
    if WIDE[kind] then
        c = as_wide(self, value, kind)
        return varies and not value.varies and ("(%s)(%s)"):format(self:type(kind, true), c) or c
    end
    if value.literal then
        if kind == "num" then
            c = number_text(value.literal, self.single)
        elseif kind == "long" then
            c = integer_text(value.literal, true)
        elseif kind == "int" then
            c = integer_text(tonumber(require "bit".tobit(value.literal)), false)
        end
    elseif value.kind ~= kind then
        if WIDE[value.kind] then
            c = of_wide(self, value, kind)
        elseif value.kind == "num" and kind == "int" then
            c = ("%s(%s)"):format(self:need("lua_tobit", value.varies), c)
        elseif value.kind == "long" and kind == "int" then
            c = value.varies and ("convert_int%d(%s)"):format(self.lanes, c) or ("(int)%s"):format(c)
        elseif value.varies then
            c = ("convert_%s(%s)"):format(self:type(kind, true), c)
        else
            c = ("(%s)%s"):format(self:type(kind, false), c)
        end
    end
    if value.range and kind == "long" then c = "(long)" .. c end
    if varies and not value.varies then
        if kind == "bool" then
            c = c == "1" and ("(%s)(-1)"):format(self.mask_type) or c == "0" and ("(%s)(0)"):format(self.mask_type)
                or ("(%s)(%s ? -1 : 0)"):format(self.mask_type, c)
        else
            c = ("(%s)(%s)"):format(self:type(kind, true), c)
        end
    end
    return c
end

-- A mask for selecting among values of this kind, whose lanes may be wider or narrower.
function Emitter:mask_for(kind, mask)
    local wants = (kind == "int" or (self.single and kind ~= "long" and not WIDE[kind])) and "int" or "long"
    if wants == (self.single and "int" or "long") then return mask end
    return ("convert_%s%d(%s)"):format(wants, self.lanes, mask)
end

-- The name of a C helper in the form at hand.
function Emitter:need(name, varies)
    local lanes = varies and self.lanes or 1
    self.unit:helper(name, lanes)
    return name .. (lanes > 1 and lanes or "")
end

---------------------------------------------------------------------------------------------------
-- Masks. self.chain: { name =, full = all lanes are known to be on, loop = the loop whose mask it
-- is, kills =, branches = how many branches of conditions that are the same in all lanes are open
-- under it: C goes on behind these }

function Emitter:here()
    return self.chain[#self.chain]
end

-- The current mask's text, or nil when it is full.
function Emitter:mask()
    local entry = self:here()
    if not entry.full then return entry.name end
end

-- The lanes that are on here and in which the mask `c` holds.
function Emitter:masked(c)
    local mask = self:mask()
    return mask and ("(%s & %s)"):format(mask, c) or c
end

function Emitter:push_mask(c, loop)
    local entry = { name = self:temp "m", full = false, loop = loop, kills = 0, branches = 0 }
    self:line("%s %s = %s;", self.mask_type, entry.name, bare(c))
    self.chain[#self.chain + 1] = entry
    return entry
end

function Emitter:pop_mask()
    self.chain[#self.chain] = nil
end

-- Clears lanes from the masks first..last of the chain.
function Emitter:kill(lanes, first, last)
    for i = last, first, -1 do
        local entry = self.chain[i]
        self:line("%s &= ~%s;", entry.name, lanes)
        entry.full = false
        entry.kills = entry.kills + 1
        if i == 1 then self.uses_m0 = true end
    end
end

-- Leaves the function, with the values of the result variables.
function Emitter:leave()
    if #self.inst.results == 0 then
        self:line("return;")
    elseif self.inst.simd then
        self.uses_result = true
        self:line("return r1;")
    else
        self:line("return 0;")
    end
end

-- Ends the current lanes, or those in `lanes` (a mask's name), with the number of a failure.
-- `details`: the numbers of its message, as texts.
function Emitter:fail(status, lanes, details)
    local function put(form)
        for d, c in ipairs(details or {}) do
            local place = d == 1 and "*detail" or ("detail[%d]"):format(d - 1)
            self:line("%s = %s;", place, form(c, place))
        end
    end
    if not self.inst.simd then
        self:line("*status = %s;", status)
        put(function(c) return c end)
        self:leave()
        return
    end
    lanes = lanes or self:mask()
    local vector = ("(long%d)(%s)"):format(self.lanes, status)
    local real = self:type("num", true)
    if not lanes then
        self:line("*status = %s;", vector)
        put(function(c) return ("(%s)(%s)"):format(real, c) end)
        self:leave()
        return
    end
    self:line("*status = select(*status, %s, %s);", vector, self:mask_for("long", lanes))
    put(function(c, place) return ("select(%s, (%s)(%s), %s)"):format(place, real, c, lanes) end)
    if lanes == self:mask() then
        self:exit_lanes(true)
    else
        self:kill(lanes, 1, #self.chain)
    end
end

-- Ends the current lanes' run of the function, after their results or failures were stored.
-- `goes_on`: C reaches the code after this even if no lane does.
function Emitter:exit_lanes(goes_on)
    local top = #self.chain
    if top == 1 then
        self:leave()
        return
    end
    local here = self:here()
    self:kill(here.name, 1, top - 1)
    if here.loop and here.loop == self.loops[#self.loops] then
        self:line("break;")
    elseif goes_on then
        self:line("%s = 0;", here.name)
        here.kills = here.kills + 1
    else
        self:end_branch()
    end
end

-- All lanes that are on have left the block at hand. Where that is a branch which C comes out of,
-- they must be off there, too.
function Emitter:end_branch()
    local here = self:here()
    if here.branches == 0 then return end
    self:line("%s = 0;", here.name)
    here.kills = here.kills + 1
end

emitter.Emitter = Emitter
emitter.identifier, emitter.number_text, emitter.literal, emitter.bare = identifier, number_text, literal, bare
emitter.integer_text = integer_text

return emitter
