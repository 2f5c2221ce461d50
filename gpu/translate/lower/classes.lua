-- classes.lua: classes of tables: all tables that one variable, field or element may hold must be
-- laid out alike, and so have one class, which says what they need.
--
-- A class: is_table; fields by key, with those of a list's elements at "*"; order of the keys;
-- meta: the metatable, a Static. Of what is no table: is_symbol: it is a text (symbols.lua);
-- is_boolean, has_number, has_others: it was given booleans, plain numbers, something of which that
-- is not known. Of a field: is_late: not all tables of its class are made with it; has_nil: it was
-- given nil. Of a list: has_list; from, to: the indexes that are written; counted: elements that
-- are written at indexes that nobody knows; appended: elements that are added at its end; count:
-- elements of its constructor; grows: not always as many; has_hole: an element of its constructor
-- is nil; open: how long it gets is not known, the line of the loop that is the reason; has_holes:
-- see holes.lua. Of structs and arrays of C: struct, the layout, and of their numbers ctype;
-- is_lua: a table of Lua is of this class, is_mixed: structs of several types are (structs.lua).

local classes = {}

local function new_class() return { fields = {}, order = {} } end
classes.new_class = new_class

local function find(class)
    while class.same do class = class.same end
    return class
end
classes.find = find

local function note_change(L) L.changed = true end
classes.note_change = note_change

-- Sets a field of what is kept from one round to the next; another round has to see it.
function classes.learn(L, list, key, value)
    if list[key] == value then return end
    list[key] = value
    note_change(L)
end

local function field_class(L, class, key)
    class = find(class)
    if class.has_list and type(key) == "number" then key = "*" end
    local field = class.fields[key]
    if not field then
        field = new_class()
        class.fields[key] = field
        class.order[#class.order + 1] = key
        class.is_table = true
        note_change(L)
    end
    return find(field)
end
classes.field_class = field_class

local unify

local UNIFIED_MAX = 64 -- tables in each other

-- Makes the class that of a list: whole numbers are computed keys.
local function make_list(L, class)
    class = find(class)
    if class.has_list then return class end
    class.has_list, class.is_table, class.from, class.to = true, true, 1, 0
    note_change(L)
    local order = {}
    for _, key in ipairs(class.order) do
        if type(key) == "number" then
            local field = class.fields[key]
            class.fields[key] = nil
            class.from, class.to = math.min(class.from, key), math.max(class.to, key)
            if class.fields["*"] then unify(L, class.fields["*"], field) else class.fields["*"] = field end
        else
            order[#order + 1] = key
        end
    end
    class.order = order
    class.fields["*"] = class.fields["*"] or new_class()
    return class
end
classes.make_list = make_list

function unify(L, a, b)
    a, b = find(a), find(b)
    if a == b then return a end
    note_change(L)
    L.unifying = L.unifying + 1
    if L.unifying > UNIFIED_MAX then L.refuse_endless() end
    if b.has_list then make_list(L, a) elseif a.has_list then make_list(L, b) end
    b.same = a
    a.is_table, a.is_boolean = a.is_table or b.is_table, a.is_boolean or b.is_boolean
    a.has_number, a.has_others = a.has_number or b.has_number, a.has_others or b.has_others
    a.is_symbol, a.is_late, a.has_nil = a.is_symbol or b.is_symbol, a.is_late or b.is_late, a.has_nil or b.has_nil
    a.meta, a.ctype = a.meta or b.meta, a.ctype or b.ctype
    if a.struct and b.struct and a.struct.id ~= b.struct.id then a.is_mixed = true end
    a.struct, a.is_mixed = a.struct or b.struct, a.is_mixed or b.is_mixed
    a.is_lua = a.is_lua or b.is_lua
    a.grows = a.grows or b.grows
    if a.count and b.count and a.count ~= b.count then a.grows = true end
    a.count = a.count or b.count
    if b.has_list then a.from, a.to = math.min(a.from, b.from), math.max(a.to, b.to) end
    a.open, a.has_holes = a.open or b.open, a.has_holes or b.has_holes
    if b.appended then a.appended = math.max(a.appended or 0, b.appended) end
    if b.counted then a.counted = math.max(a.counted or 0, b.counted) end
    -- In order, so that the same function gives the same text each time, as kept programs need it.
    local function add(key)
        local field = b.fields[key]
        if a.fields[key] then
            unify(L, a.fields[key], field)
        else
            a.fields[key] = field
            if key ~= "*" then a.order[#a.order + 1] = key end
        end
    end
    for _, key in ipairs(b.order) do add(key) end
    if b.fields["*"] then add "*" end
    L.unifying = L.unifying - 1
    return a
end
classes.unify = unify

-- The class is that of a table, since it is indexed with this key.
function classes.make_table(L, class, key)
    class = find(class)
    if not class.is_table then
        class.is_table = true
        note_change(L)
    end
    if key.tag == "String" or key.tag == "Number" then field_class(L, class, key.value) else make_list(L, class) end
end

-- Notes what the place of a class was given: `what` is one of the fields that say so.
function classes.note_scalar(L, class, what)
    class = find(class)
    if class[what] then return end
    class[what] = true
    note_change(L)
end

--- Notes which fields a table of the class is not made with. `keys`: those that it has, as keys.
function classes.note_late(L, class, keys)
    class = find(class)
    for _, key in ipairs(class.order) do
        if type(key) == "string" and keys[key] == nil then classes.note_scalar(L, class.fields[key], "is_late") end
    end
end

--- Was the place of a class given plain numbers only, as far as is known now?
function classes.is_plain(class)
    class = find(class)
    return class.has_number == true and not class.has_others and not class.is_boolean and not class.is_table
end

-- The variable is a table's, since it is indexed.
function classes.note_variable(L, value)
    local var = value.variable
    if not var then return end
    if not L.variables[var] then
        L.variables[var] = new_class()
        note_change(L)
    end
    value.class = L.variables[var]
end

function classes.extend(L, class, from, to)
    class = find(class)
    if from < class.from then class.from = from note_change(L) end
    if to > class.to then class.to = to note_change(L) end
end

-- Rounds in which lists that are as long as each other may get longer.
local GROWTHS_MAX = 8

--- The list's length is not known before it runs, since that of the loop in this line is not.
function classes.open(L, class, line)
    class = find(class)
    if not class.open then classes.learn(L, class, "open", line) end
end

--- Notes how many elements are added to a list, in one of two ways: `what` is "appended" or
--- "counted". A list that gets longer by its own length, perhaps by way of another list, does so in
--- each round: its length is not known.
function classes.lengthen(L, class, what, count, line)
    class = find(class)
    if class.open or count <= (class[what] or 0) then return end
    class[what] = count
    note_change(L)
    if class.round ~= L.round then class.round, class.growths = L.round, (class.growths or 0) + 1 end
    if class.growths > GROWTHS_MAX then classes.open(L, class, line) end
end

return classes
